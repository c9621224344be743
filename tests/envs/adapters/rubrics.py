"""Environments as users of `verifiers` write them, on the real package where it is installed."""

from __future__ import annotations

from functools import partial
from typing import Any

import verifiers as vf  # pyright: ignore[reportMissingImports]
from datasets import Dataset  # pyright: ignore[reportMissingImports]

from envs.adapters.verifiers import VerifiersTasks

ROWS = [{"question": f"Add 1 to {number}.", "answer": str(number + 1)} for number in range(20)]


async def right(completion: Any, answer: str) -> float:
    return float(completion[-1]["content"].strip() == answer)


async def brief(completion: Any) -> float:
    return 1.0 / len(completion[0]["content"])


async def tries(state: Any) -> float:
    return float(len(state["trajectory"]))


class Patient(vf.MultiTurnEnv):
    """Tells once that the answer is wrong."""

    async def env_response(self, messages: Any, state: Any, **_: Any) -> Any:
        if state["answer"] == messages[-1]["content"]:
            state["final_env_response"] = [vf.UserMessage(content="Right.")]
            return state["final_env_response"]
        return [{"role": "user", "content": f"Not {messages[-1]['content']}."}]


class Broken(Patient):
    async def env_response(self, messages: Any, state: Any, **_: Any) -> Any:
        raise vf.Error("the tool is gone")


def one_turn(**options: Any) -> Any:
    rubric = vf.Rubric(funcs=[right, brief], weights=[1.0, 0.0])
    return vf.SingleTurnEnv(dataset=Dataset.from_list(ROWS), system_prompt="Count.", rubric=rubric, **options)


def several_turns(kind: Any = Patient, **options: Any) -> Any:
    rubric = vf.Rubric(funcs=[solved, tries], weights=[1.0, 0.0])
    return kind(dataset=Dataset.from_list(ROWS), rubric=rubric, max_turns=3, **options)


async def solved(state: Any, answer: str) -> float:
    return float(any(step["completion"][-1]["content"] == answer for step in state["trajectory"]))


async def best_of(completions: Any) -> list[float]:
    return [0.0 for _ in completions]


def compared() -> Any:
    return vf.SingleTurnEnv(dataset=Dataset.from_list(ROWS), rubric=vf.Rubric(funcs=[best_of], weights=[1.0]))


single = VerifiersTasks(one_turn)
multi = VerifiersTasks(several_turns)
broken = VerifiersTasks(partial(several_turns, Broken))
evaluated = VerifiersTasks(partial(one_turn, eval_dataset=Dataset.from_list(ROWS[:3])))
grouped = VerifiersTasks(compared)
