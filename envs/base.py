"""What every environment looks like from outside: `Environment`, `Observation`, `StepResult`.

An environment is a text game with explicit task ids. It is plain Python, single-threaded and knows nothing of Ray,
of models or of prompts; the actors run it in worker processes of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class Observation:
    """What the agent sees.

    Attributes:
        text: the environment's own words, unchanged.
        admissible_actions: strings that `step` accepts now, in the environment's own order.
        can_search: True where a free-text search is accepted too (WebShop).
    """

    text: str
    admissible_actions: tuple[str, ...] = ()
    can_search: bool = False

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one action led to.

    Attributes:
        observation: what the agent sees now.
        rewards: named rewards of this step, always with every name of `Environment.reward_names`.
            `success` is 1.0 on the step that solves the task and 0.0 on all others.
        done: True when the episode has ended; a further `step` raises RuntimeError.
        info: facts for logs and learners: `action_valid` (bool) and `state_hash` (int, equal for equal states).
    """

    observation: Observation
    rewards: Mapping[str, float]
    done: bool
    info: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Environment(Protocol):
    """A text environment: one episode at a time, re-usable for any number of episodes."""

    @property
    def reward_names(self) -> tuple[str, ...]:
        """Names of the reward vector, in order; the first is `success`."""
        ...

    def reset(self, task_id: str, seed: int = 0) -> Observation:
        """Start the episode of `task_id`. Raises UserError."""
        ...

    def step(self, action: str) -> StepResult:
        """Apply one action. Any string is allowed; nonsense gives an observation, never an exception."""
        ...

    def close(self) -> None:
        """Free what the environment holds; it cannot be used afterwards."""
        ...
