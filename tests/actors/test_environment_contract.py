"""What a host makes of environments that do not keep to what `envs.base` asks: one line that names the fix."""

from __future__ import annotations

from typing import Any

import pytest

from actors.environment_host import EnvironmentHost
from actors.episode import EnvironmentFailure
from envs.base import Observation, StepResult
from trajectories.errors import UserError

PLACE = ("rollout-0/0", "mine")
FINE: dict[str, Any] = {
    "observation": Observation("A room."),
    "rewards": {"success": 0.0, "score": 0.5},
    "done": False,
    "info": {"action_valid": True, "state_hash": 2**63 - 1},
}


class Mine:
    """Shows and answers what it is told to."""

    reward_names = ("success", "score")

    def __init__(self, shown: Any = FINE["observation"], **answered: Any) -> None:
        self._shown, self._answered = shown, answered

    def reset(self, task_id: str, seed: int = 0) -> Any:
        return self._shown

    def step(self, action: str) -> Any:
        if action == "crash":
            raise BrokenPipeError("the game is gone")
        return StepResult(**FINE | self._answered)

    def close(self) -> None:
        raise BrokenPipeError("the game was gone before")


def stepped(**answered: Any) -> Any:
    host = EnvironmentHost({"mine": lambda: Mine(**answered)})
    host.reset(PLACE, "task", 0)
    return host.step_all([(PLACE, "look")])[0]


def test_what_keeps_to_it_passes() -> None:
    assert stepped() == StepResult(**FINE)
    assert isinstance(stepped(info={}), StepResult), "info may be silent"
    assert isinstance(stepped(rewards={"success": 1, "score": -0.1, "more": 2.0}), StepResult)


@pytest.mark.parametrize(
    ("answered", "said"),
    [
        ({"rewards": {"success": 0.0}}, r"gives no reward 'score': give every one of its reward_names at every step"),
        (
            {"rewards": {"success": 0.0, "score": float("nan")}},
            r"gives nan as the reward 'score': give a finite number",
        ),
        ({"rewards": {"success": None, "score": 0.0}}, r"gives None as the reward 'success': give a finite number"),
        ({"info": {"state_hash": "kitchen"}}, r"gives 'kitchen' as state_hash: give a whole number of 63 bits"),
        ({"info": {"state_hash": 2**63}}, r"gives 9223372036854775808 as state_hash: give a whole number of 63 bits"),
        ({"rewards": 1.0}, r"gives 1.0 as rewards: give a dict"),
        ({"info": None}, r"gives None as info: give a dict"),
        ({"observation": "A room."}, r"shows a str: give an Observation"),
        ({"observation": Observation(b"A room.")}, r"shows a bytes as its text: give a str"),  # type: ignore[arg-type]
        ({"observation": Observation("A room.", ("look", 1))}, r"names 1 as an admissible action: give texts"),  # type: ignore[arg-type]
        ({"observation": Observation("A room.", "look")}, r"names 'look' as its admissible actions: give a tuple"),  # type: ignore[arg-type]
    ],
)
def test_a_step_that_does_not_is_told_in_one_line(answered: dict[str, Any], said: str) -> None:
    told = stepped(**answered)
    assert isinstance(told, UserError) and "\n" not in str(told)
    with pytest.raises(UserError, match=f"the environment mine {said}"):
        raise told


def test_a_reset_that_does_not_is_told_in_one_line() -> None:
    with pytest.raises(UserError, match="the environment mine shows a tuple: give an Observation"):
        EnvironmentHost({"mine": lambda: Mine((Observation("A room."), {}))}).reset(PLACE, "task", 0)


def test_an_environment_that_cannot_even_be_closed_takes_no_others_step() -> None:
    host = EnvironmentHost({"mine": Mine})
    other = ("rollout-0/1", "mine")
    for place in (PLACE, other):
        host.reset(place, "task", 0)
    broken, fine = host.step_all([(PLACE, "crash"), (other, "look")])
    assert isinstance(broken, EnvironmentFailure) and str(broken) == "step 'crash': the game is gone"
    assert fine == StepResult(**FINE)
    assert host.reset(PLACE, "task", 0) == FINE["observation"], "the slot is free again"


def test_a_failure_does_not_repeat_a_long_action() -> None:
    host = EnvironmentHost({"mine": Mine})
    (lost,) = host.step_all([(PLACE, "x" * 100_000)])
    assert len(str(lost)) < 200
    host = EnvironmentHost({"mine": lambda: Mine(rewards={})})
    host.reset(PLACE, "task", 0)
    (told,) = host.step_all([(PLACE, "x" * 100_000)])
    assert len(str(told)) < 200
