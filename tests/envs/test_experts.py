"""An expert that slips goes on as if it had not, whatever it plays."""

from __future__ import annotations

import random
from functools import lru_cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs import load_panel, make_environment
from envs.base import Observation, StepResult
from envs.experts import Demonstration, play_expert, play_slipping
from envs.slips import Slips

PANELS = {"alfworld/generated/train": None, "webshop/train": "generated"}


@lru_cache
def opened(name: str) -> tuple[Any, tuple[str, ...]]:
    panel = load_panel(name, data=PANELS[name])
    return make_environment(panel.environment, PANELS[name]), panel.task_ids


def told(steps: Demonstration) -> list[tuple[str, str, int]]:
    return [(action, result.observation.text, result.info["state_hash"]) for _, action, result in steps]


@given(st.sampled_from(list(PANELS)), st.integers(0, 60), st.integers(0, 3), st.sampled_from([0.1, 0.5, 1.0]))
@settings(max_examples=40)
def test_without_its_slips_it_plays_as_it_plays_plainly(name, number, seed, rate):
    environment, tasks = opened(name)
    slips = Slips(random.Random(f"{seed}/{number}"), rate)
    steps, slipped = play_slipping(environment, tasks[number], slips, seed, max_turns=15)
    own = [step for turn, step in enumerate(steps) if turn not in slipped]
    taken = [turn for turn in slipped if steps[turn][2].info["action_valid"]]
    plain = play_expert(environment, tasks[number], seed, max_turns=15)
    assert told(own) == told(plain[: len(own)])
    assert taken == [len(steps) - 1] if len(own) < len(plain) else not taken
    for turn in slipped.difference(taken):
        seen, action, result = steps[turn]
        assert action not in seen.admissible_actions and not result.info["action_valid"]
        before = steps[turn - 1][2].info["state_hash"] if turn else result.info["state_hash"]
        assert result.info["state_hash"] == before
        assert result.observation.admissible_actions == seen.admissible_actions


@pytest.mark.parametrize("name", PANELS)
def test_it_slips_and_slips_again(name):
    environment, tasks = opened(name)
    slipped = [play_slipping(environment, task, Slips(random.Random(task), 0.5))[1] for task in tasks[:10]]
    assert any(turn + 1 in turns for turns in slipped for turn in turns)


def test_questions_have_nothing_to_slip_on():
    environment: Any = make_environment("questions")
    for task in load_panel("questions/train").task_ids[:200]:
        steps, slipped = play_slipping(environment, task, Slips(random.Random(0), 1.0))
        assert steps == play_expert(environment, task) and not slipped


class Lenient:
    """Takes any action, so that there are no slips in it."""

    reward_names = ("success",)

    def reset(self, task_id: str, seed: int = 0) -> Observation:
        return Observation("Say 1.", ("1",))

    def step(self, action: str) -> StepResult:
        return StepResult(Observation("Next.", ("1",)), {"success": 0.0}, False, {"action_valid": True})

    def expert(self, seed: int = 0) -> Lenient:
        return self

    def act(self, observation: Observation) -> str:
        return "1"

    def close(self) -> None: ...


def test_a_slip_that_the_environment_takes_ends_the_episode():
    steps, slipped = play_slipping(Lenient(), "any", Slips(random.Random(0), 1.0))  # type: ignore[arg-type]
    assert (len(steps), slipped) == (1, {0})
