"""One episode of an agent: the loop between engine and environment. Knows neither Ray nor vLLM."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from pydantic import Field

from actors.engine import Engine, SamplingParameters
from envs.base import Observation, StepResult
from trajectories.builder import PromptBuilder
from trajectories.errors import ConcertoError
from trajectories.settings import Settings
from trajectories.types import Episode, StopReason, Trajectory

Result = TypeVar("Result")

PER_ACTION_REWARDS = ("format", "action_validity")
"""Rewards that judge single actions: an episode earns their mean over its turns. It earns the sum of all others."""


SHORTEST_RESPONSE = 8
"""Tokens of context below which nothing is asked for any more: hardly an action is shorter."""


class EnvironmentFailure(ConcertoError):
    """The environment died, hung or raised. The episode is lost; another environment may play it again."""


class Session(Protocol):
    """An environment for one episode, wherever it lives. Failures are EnvironmentFailure; bad task ids, and what no
    environment may answer, UserError."""

    @property
    def reward_names(self) -> tuple[str, ...]: ...

    async def reset(self, task_id: str, seed: int) -> Observation: ...

    async def step(self, action: str) -> StepResult: ...


@dataclass(frozen=True, slots=True)
class EpisodeTask:
    """What is to be played, and as which member of which group."""

    episode_id: str
    group_id: str
    member: int
    environment: str
    split: str
    task_id: str
    seed: int
    """Seed of sampling."""
    environment_seed: int
    """Seed of the environment; the same for a whole group, which has to start from one state."""
    memory_snapshot: str | None = None
    """Of the experience that the prompts may carry; None where the episode plays without."""
    memory_ids: tuple[str, ...] = ()
    """Of the items in them."""


@dataclass(frozen=True, slots=True)
class Agent:
    """Who plays one episode: an engine that speaks, how it samples, and the builder that remembers the conversation."""

    engine: Engine
    builder: PromptBuilder
    sampling: SamplingParameters


class TurnRewardSettings(Settings):
    """What a turn is rewarded with, for estimators that credit single turns: a weighted sum of what it earned."""

    success: float = 1.0
    """Weight of success, which the last turn of a solved episode earns. Tuning: 1."""
    progress: float = 0.0
    """Weight of progress, the share of the goal's conditions that the turn met, where the environment tells. Tuning: 0,
    or 0.3 where success is rare."""
    invalid_action: float = Field(default=0.0, ge=0)
    """Cost of an action that did nothing. Tuning: 0, or 0.1 as in published stacks."""
    format_violation: float = Field(default=0.0, ge=0)
    """Cost of a response that breaks rollout.prompt.format, or, where none is set, is no single action. Tuning: 0, or
    0.1 for models that reason before they act."""
    turn: float = Field(default=0.0, ge=0)
    """Cost of every turn. Tuning: 0; 0.01 where solved episodes are longer than they need be."""

    def of(self, rewards: Mapping[str, float], action_valid: bool) -> float:
        """The reward of a turn that earned these named rewards. With progress=0.3 and turn=0.01 a turn that meets half
        of the goal earns 0.14."""
        earned = self.success * rewards["success"] + self.progress * rewards.get("progress", 0.0)
        broken = 1.0 - rewards.get("format", 1.0)
        return earned - self.invalid_action * (not action_valid) - self.format_violation * broken - self.turn


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds beside the environment's own rules: an episode ends after so many turns, and before a prompt that
    would be so many tokens with its response; and what a turn is rewarded with.

    A response may take what its prompt leaves of the context. One that would have needed more is not played, and ends
    the episode, as does a prompt that leaves less than `SHORTEST_RESPONSE`."""

    max_turns: int
    max_model_len: int
    turn_reward: TurnRewardSettings

    def room(self, prompt_tokens: int, wanted: int) -> int | None:
        """Tokens that the response to such a prompt may have, of those wanted; None: too few to ask at all."""
        room = min(wanted, self.max_model_len - prompt_tokens)
        return None if room < min(wanted, SHORTEST_RESPONSE) else room


class Clock:
    """Where an episode's seconds go."""

    def __init__(self) -> None:
        self.generation = 0.0
        self.environment = 0.0

    async def generating(self, call: Awaitable[Result]) -> Result:
        started = time.perf_counter()
        try:
            return await call
        finally:
            self.generation += time.perf_counter() - started

    async def playing(self, call: Awaitable[Result]) -> Result:
        started = time.perf_counter()
        try:
            return await call
        finally:
            self.environment += time.perf_counter() - started


class Tally:
    """What an episode comes to, action by action.

    Its rewards are sums over the actions, except for `PER_ACTION_REWARDS`.
    """

    def __init__(self, reward_names: tuple[str, ...]) -> None:
        self.clock = Clock()
        self.turns = 0
        self.versions: set[int] = set()
        self._totals = dict.fromkeys(reward_names, 0.0)

    def add(self, rewards: Mapping[str, float]) -> None:
        """One action was played, and earned these."""
        self.turns += 1
        self._totals = {name: total + rewards[name] for name, total in self._totals.items()}

    def episode(self, task: EpisodeTask, stop: StopReason, engine: Engine, waiting_seconds: float) -> Episode:
        return _episode(
            task,
            version_min=min(self.versions, default=engine.stats().version),  # without a turn: of what would have played
            version_max=max(self.versions, default=engine.stats().version),
            stop_reason=stop,
            success=self._totals["success"] >= 1.0,
            rewards={
                name: total / max(1, self.turns) if name in PER_ACTION_REWARDS else total
                for name, total in self._totals.items()
            },
            turns=self.turns,
            generation_seconds=self.clock.generation,
            environment_seconds=self.clock.environment,
            waiting_seconds=waiting_seconds,
        )


async def play(
    task: EpisodeTask, agent: Agent, session: Session, rules: Rules, waiting_seconds: float = 0.0
) -> Trajectory:
    """Play one episode to its end.

    A turn's reward is what the rules say. An answer that breaks the format earns `format` 0, whatever the environment
    makes of the action that is none.

    Args:
        waiting_seconds: what the episode spent before it got its environment; only recorded.
    Raises:
        EnvironmentFailure, EngineError: the episode is lost and may be tried again.
        UserError: no environment knows this task, or its environment does not keep to `envs.base`.
    """
    engine, builder, sampling = agent.engine, agent.builder, agent.sampling
    tally = Tally(session.reward_names)
    clock, stop = tally.clock, StopReason.TURN_LIMIT
    builder.begin(await clock.playing(session.reset(task.task_id, task.environment_seed)))
    while tally.turns < rules.max_turns:
        prompt = builder.prompt()
        room = rules.room(len(prompt), sampling.max_tokens)
        if room is None:
            stop = StopReason.LENGTH_LIMIT
            break
        seed = sampling_seed(task.seed, tally.turns)
        response = await clock.generating(engine.generate(prompt, replace(sampling, max_tokens=room), seed))
        if room < sampling.max_tokens and not response.finished:  # half an action may be another action
            stop = StopReason.LENGTH_LIMIT
            break
        tally.versions.add(response.version)
        answer = builder.add_response(response.token_ids, response.logprobs, response.version, response.finished)
        step = await clock.playing(session.step(answer.action))
        rewards = {**step.rewards, "format": 0.0} if answer.violation else step.rewards
        tally.add(rewards)
        valid = step.info.get("action_valid", True)
        builder.add_observation(
            step.observation,
            reward=rules.turn_reward.of(rewards, valid),
            state_hash=step.info.get("state_hash", 0),
            action_valid=valid,
        )
        if step.done:
            stop = StopReason.DONE
            break
    sequences = builder.sequences(task.episode_id, task.episode_id, task.group_id, sampling.temperature)
    return Trajectory(tally.episode(task, stop, engine, waiting_seconds), sequences)


def failed_episode(
    task: EpisodeTask, error: BaseException, reward_names: tuple[str, ...], waiting_seconds: float
) -> Trajectory:
    """The record of an episode that no attempt brought to its end: no rewards, no training value."""
    episode = _episode(
        task,
        version_min=0,
        version_max=0,
        stop_reason=StopReason.ERROR,
        success=False,
        rewards=dict.fromkeys(reward_names, 0.0),
        turns=0,
        generation_seconds=0.0,
        environment_seconds=0.0,
        waiting_seconds=waiting_seconds,
        error=str(error),
    )
    return Trajectory(episode, ())


def _episode(task: EpisodeTask, **outcome: Any) -> Episode:
    return Episode(
        episode_id=task.episode_id,
        group_id=task.group_id,
        member=task.member,
        environment=task.environment,
        split=task.split,
        task_id=task.task_id,
        seed=task.seed,
        memory_snapshot=task.memory_snapshot,
        memory_ids=task.memory_ids,
        **outcome,
    )


def sampling_seed(seed: int, turn: int) -> int:
    """A seed of its own for every turn, within the 63 bits that vLLM takes."""
    return (seed * 65_537 + turn) % 2**63
