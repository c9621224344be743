"""Whether an environment keeps to what `envs.base` asks of it, told where its answers come in.

An environment of a user's own may give what no prompt, no table and no advantage can take. Found here it is one line
that names the fix; further on it would be the end of a whole group, or of the run, somewhere in its arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

from envs.base import Observation, StepResult
from trajectories.errors import UserError

LONGEST_SHOWN = 60
"""Characters of a wrong value that are repeated."""


def check_observation(observation: Any, who: str) -> None:
    """Raises UserError where it is no `Observation` of texts; `who` begins the line."""
    if not isinstance(observation, Observation):
        raise UserError(f"{who} shows a {type(observation).__name__}: give an Observation of envs.base")
    if not isinstance(observation.text, str):
        raise UserError(f"{who} shows a {type(observation.text).__name__} as its text: give a str")
    actions = observation.admissible_actions
    if not isinstance(actions, tuple):
        raise UserError(f"{who} names {shown(actions)} as its admissible actions: give a tuple of texts")
    for action in actions:
        if not isinstance(action, str):
            raise UserError(f"{who} names {shown(action)} as an admissible action: give texts")


def check_step(step: Any, reward_names: tuple[str, ...], who: str) -> None:
    """Raises UserError where it is no `StepResult` with a finite number for each of these rewards."""
    if not isinstance(step, StepResult):
        raise UserError(f"{who} answers a step with a {type(step).__name__}: give a StepResult of envs.base")
    check_observation(step.observation, who)
    for name, values in (("rewards", step.rewards), ("info", step.info)):
        if not isinstance(values, Mapping):
            raise UserError(f"{who} gives {shown(values)} as {name}: give a dict")
    _check_rewards(step.rewards, reward_names, who)
    state = step.info.get("state_hash", 0)
    if not isinstance(state, Integral) or not -(2**63) <= int(state) < 2**63:
        raise UserError(f"{who} gives {shown(state)} as state_hash: give a whole number of 63 bits")


def _check_rewards(rewards: Mapping[str, Any], reward_names: tuple[str, ...], who: str) -> None:
    for name in reward_names:
        if name not in rewards:
            raise UserError(f"{who} gives no reward {name!r}: give every one of its reward_names at every step")
        reward = rewards[name]
        if not isinstance(reward, Real) or not math.isfinite(reward):
            raise UserError(f"{who} gives {shown(reward)} as the reward {name!r}: give a finite number")


def shown(value: Any) -> str:
    """A wrong value for an error line: on one line, and short."""
    text = " ".join(repr(value).split())
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"
