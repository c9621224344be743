"""Expert demonstrations: an expert plays a task and every step is kept."""

from __future__ import annotations

from typing import Protocol

from envs.base import Environment, Observation, StepResult

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
    expert = environment.expert(seed)
    observation = environment.reset(task_id, seed)
    expert.reset(observation)
    steps: Demonstration = []
    while len(steps) < max_turns:
        action = expert.act(observation)
        result = environment.step(action)
        steps.append((observation, action, result))
        if result.done:
            break
        observation = result.observation
    return steps
