"""Expert demonstrations: an expert plays a task and every step is kept."""

from __future__ import annotations

import random
from typing import Protocol

from envs.base import Environment, Observation, StepResult
from envs.slips import Slips

Demonstration = list[tuple[Observation, str, StepResult]]
"""(what the expert saw, what it did, what came of it), in order."""


class Expert(Protocol):
    """Plays from observations only, so that a model which sees the same can imitate it."""

    def reset(self, observation: Observation) -> None: ...

    def act(self, observation: Observation) -> str:
        """The next action. The first call takes the observation given to `reset`."""
        ...


class EnvironmentWithExpert(Environment, Protocol):
    """An environment that knows how it is played well."""

    def expert(self, seed: int = 0) -> Expert:
        """A new expert for episodes of this environment."""
        ...


def play_expert(environment: EnvironmentWithExpert, task_id: str, seed: int = 0, max_turns: int = 50) -> Demonstration:
    """Let the environment's own expert play one episode, until it is done or `max_turns` are used.

    Returns:
        One entry a turn. The task was solved if `rewards["success"]` of the last one is 1.0.
    """
    return play_slipping(environment, task_id, Slips(random.Random(seed), rate=0.0), seed, max_turns)[0]


def play_slipping(
    environment: EnvironmentWithExpert, task_id: str, slips: Slips, seed: int = 0, max_turns: int = 50
) -> tuple[Demonstration, frozenset[int]]:
    """As `play_expert`, but now and then the expert slips; it goes on as if it had not, since slips change nothing.

    An episode in which the environment takes a slip after all ends with it: the expert does not know where it stands.

    Args:
        slips: those of this episode.
        max_turns: the expert's own; slips come on top, so that it solves what it solves without them.

    Returns:
        The demonstration, and which of its turns are slips.
    """
    expert = environment.expert(seed)
    observation = shown = environment.reset(task_id, seed)
    expert.reset(observation)
    steps: Demonstration = []
    slipped: set[int] = set()
    while len(steps) - len(slipped) < max_turns:
        slip = slips.draw(observation)
        action = expert.act(observation) if slip is None else slip
        result = environment.step(action)
        if slip is not None:
            slipped.add(len(steps))
        steps.append((shown, action, result))
        if result.done or (slip is not None and result.info["action_valid"]):
            break
        shown = result.observation
        observation = shown if slip is None else observation
    return steps, frozenset(slipped)
