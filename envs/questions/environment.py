"""Questions as an `Environment`: one question, one answer."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Protocol

from envs.base import Observation, StepResult
from envs.questions.library import QuestionLibrary
from envs.questions.question import Question
from envs.questions.scoring import Verdict, judge


def open_environment(data: str | Path | None = None) -> QuestionEnvironment:
    """What `envs.make_environment("questions", ...)` calls. Raises UserError."""
    return QuestionEnvironment(QuestionLibrary.open(data))


def open_tasks(data: str | Path | None = None) -> QuestionLibrary:
    """The questions, for task panels. Raises UserError."""
    return QuestionLibrary.open(data)


class QuestionEnvironment:
    """One question at a time; the first action ends the episode, and the last observation tells what was right.

    Rewards of the only step:
        success: 1.0 if the answer is right by the rule of `envs.questions.scoring`, else 0.0.
        format: 1.0 if the response holds an answer that can be right or wrong: it names exactly one choice, or, where
            the question is open, a final answer that is not empty.

    `info` also has `references`, the right answers in words.
    """

    reward_names = ("success", "format")

    def __init__(self, library: QuestionLibrary) -> None:
        self._library = library
        self._question: Question | None = None
        self._asking = False

    @property
    def question(self) -> Question:
        """The current question. Raises RuntimeError before the first reset."""
        if self._question is None:
            raise RuntimeError("call reset first")
        return self._question

    def reset(self, task_id: str, seed: int = 0) -> Observation:
        """Ask the question `task_id`. Questions know no chance: `seed` changes nothing. Raises UserError."""
        self._question = self._library.question(task_id)
        self._asking = True
        return Observation(self._question.prompt, self._question.letters)

    def step(self, action: str) -> StepResult:
        if not self._asking:
            raise RuntimeError("the episode is over or has not begun: call reset(task_id) first")
        self._asking = False
        question = self.question
        verdict = judge(question, action)
        answered = bool(verdict.answer)
        rewards = {"success": float(verdict.right), "format": float(answered)}
        info = {
            "action_valid": answered,
            "state_hash": _state_hash(question, verdict),
            "references": question.references,
        }
        return StepResult(Observation(_reply(question, verdict)), rewards, done=True, info=info)

    def expert(self, seed: int = 0) -> SolutionExpert:
        """The expert for `envs.experts.play_expert`; it knows the question that `reset` has asked."""
        return SolutionExpert(self)

    def close(self) -> None:
        """Nothing to free: the questions are shared by all environments of the process."""
        self._asking = False


class HasQuestion(Protocol):
    """What the expert needs to know of its environment."""

    @property
    def question(self) -> Question: ...


class SolutionExpert:
    """Replies with the solution: a letter, or the first reference; with nothing where a question has no reference."""

    def __init__(self, environment: HasQuestion) -> None:
        self._environment = environment

    def reset(self, observation: Observation) -> None:
        """Nothing to prepare."""

    def act(self, observation: Observation) -> str:
        return self._environment.question.solution


def _reply(question: Question, verdict: Verdict) -> str:
    if verdict.right:
        return "Right."
    if not question.references:
        return "Thank you."
    solution = f"{question.solution}. {question.references[0]}" if question.choices else question.solution
    return f"Wrong. The answer is: {solution}"


def _state_hash(question: Question, verdict: Verdict) -> int:
    """Of the question and the answer given; the same in every process. 63 bits."""
    state = f"{question.content_hash} {verdict.answer}"
    return int.from_bytes(hashlib.blake2b(state.encode(errors="replace"), digest_size=8).digest(), "big") >> 1
