"""A group of episodes of one task, played at the same time by one engine. Knows neither Ray nor vLLM."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pydantic import PositiveFloat, PositiveInt, model_validator

from actors.engine import Engine, EngineDied, EngineError, EngineSettings, SamplingParameters
from actors.episode import (
    Agent,
    EnvironmentFailure,
    EpisodeTask,
    Rules,
    Session,
    TurnRewardSettings,
    failed_episode,
    play,
)
from actors.program import ProgramAgent, ProgramFailure, ProgramSettings, play_program
from experience.advice import Advice, Block, written
from trajectories.builder import PromptBuilder, PromptSettings
from trajectories.chat import ChatTokenizer
from trajectories.chat_builder import ChatBuilder
from trajectories.settings import Settings
from trajectories.types import Trajectory

if TYPE_CHECKING:
    from actors.gateway import Gateway

logger = logging.getLogger(__name__)


class RolloutSettings(Settings):
    """How episodes are played."""

    engine: EngineSettings = EngineSettings()
    prompt: PromptSettings = PromptSettings()
    program: ProgramSettings = ProgramSettings()
    episodes: PositiveInt = 48
    """Episodes at once on one actor; others wait. Tuning: more fill the engine's batches better until its KV cache is
    full."""
    max_turns: PositiveInt = 50
    """Actions of an episode. Tuning: 50 for ALFWorld and 15 for WebShop in published results."""
    max_response_tokens: PositiveInt = 24
    """Tokens of one response, the stop token included. Tuning: raise it for models that reason before they act."""
    turn_reward: TurnRewardSettings = TurnRewardSettings()
    episode_attempts: PositiveInt = 3
    """Times that an episode is begun in a fresh environment before its failure is recorded. Tuning: leave it."""
    environment_timeout_s: PositiveFloat = 60.0
    """Seconds for one step or reset, time in the host's queue included. A host that takes longer is restarted. Tuning:
    well above the slowest step."""

    @model_validator(mode="after")
    def _a_response_fits(self) -> RolloutSettings:
        if self.max_response_tokens >= self.engine.max_model_len:
            raise ValueError(
                f"max_response_tokens {self.max_response_tokens} leaves no room for a prompt within "
                f"engine.max_model_len {self.engine.max_model_len}: lower the one, or raise the other"
            )
        return self


@dataclass(frozen=True, slots=True)
class GroupRequest:
    """One task to be played `len(seeds)` times.

    Attributes:
        seeds: seeds of sampling, one a member; the environment of every member starts with the first.
        weights_version: oldest version of the weights that may play it.
        temperature: 0 is greedy (evaluation).
        max_turns: turns after which an episode is cut off; None: `RolloutSettings.max_turns`.
        advice: what is known of its kind of task, of which snapshot of the memory; None: nobody keeps experience.
    """

    group_id: str
    environment: str
    task_id: str
    seeds: tuple[int, ...]
    weights_version: int
    temperature: float
    split: str
    max_turns: int | None = None
    advice: Advice | None = None


class Environments(Protocol):
    """A stock of environments that episodes borrow."""

    @property
    def reward_names(self) -> Mapping[str, tuple[str, ...]]:
        """The reward names of each environment in stock."""
        ...

    def lease(self, environment: str) -> AbstractAsyncContextManager[Session]:
        """An environment of this name for the duration of the block; waits until one is free."""
        ...


@dataclass(frozen=True, slots=True)
class RolloutParts:
    """What a rollout actor plays with.

    Attributes:
        gateway: where agent programs find the policy; None: episodes are played by our own loop.
    """

    engine: Engine
    tokenizer: ChatTokenizer
    environments: Environments
    gateway: Gateway | None = None


async def play_group(
    request: GroupRequest,
    settings: RolloutSettings,
    parts: RolloutParts,
    make_builder: Callable[[str], PromptBuilder],
) -> list[Trajectory]:
    """Play all members at once; none waits for another, except for a free environment.

    Args:
        make_builder: the builder of an episode whose prompts carry this block of experience; empty: none.
    Returns:
        Trajectories of the members, in order. One that failed has no sequences.
    Raises:
        EngineError: the engine died, or holds weights older than the request allows.
        UserError: no environment knows the task, or an agent program cannot be started.
    """
    version = parts.engine.stats().version
    if version < request.weights_version:
        raise EngineError(
            f"group {request.group_id} asks for weights of version {request.weights_version}, but this actor holds "
            f"version {version} (it may have been restarted): publish to it first"
        )
    play = _GroupPlay(request, settings, parts, make_builder, _block(request.advice, parts.tokenizer))
    try:
        async with asyncio.TaskGroup() as tasks:
            members = [tasks.create_task(play.member(index)) for index in range(len(request.seeds))]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None  # one reason is enough; the other members were cancelled for it
    return [task.result() for task in members]


def _block(advice: Advice | None, tokenizer: ChatTokenizer) -> Block:
    if advice is None:
        return Block()
    return written(advice, lambda text: len(tokenizer.encode(tokenizer.quote(text))))


@dataclass(frozen=True, slots=True)
class _GroupPlay:
    """How the members of one group are played.

    Attributes:
        block: of experience, for the members that are told some.
    """

    request: GroupRequest
    settings: RolloutSettings
    parts: RolloutParts
    make_builder: Callable[[str], PromptBuilder]
    block: Block

    async def member(self, index: int) -> Trajectory:
        """An episode, begun again in a fresh environment when it breaks, up to its attempts."""
        task, started = self._task(index), time.perf_counter()
        error: Exception = EnvironmentFailure("never attempted")
        for _ in range(self.settings.episode_attempts):
            try:
                return await self._attempt(task, started)
            except EngineDied:
                raise
            except (EnvironmentFailure, ProgramFailure, EngineError) as failure:
                logger.warning("episode %s failed: %s", task.episode_id, failure)
                error = failure
        names = self.parts.environments.reward_names[task.environment]
        return failed_episode(task, error, names, time.perf_counter() - started)

    def _task(self, index: int) -> EpisodeTask:
        request, advice = self.request, self.request.advice
        told = advice is not None and index < len(request.seeds) - advice.without
        return EpisodeTask(
            episode_id=f"{request.group_id}-{index}",
            group_id=request.group_id,
            member=index,
            environment=request.environment,
            split=request.split,
            task_id=request.task_id,
            seed=request.seeds[index],
            environment_seed=request.seeds[0],
            memory_snapshot=str(advice.snapshot) if advice and told else None,
            memory_ids=self.block.item_ids if told else (),
        )

    async def _attempt(self, task: EpisodeTask, started: float) -> Trajectory:
        settings, parts, prompt = self.settings, self.parts, self.settings.prompt
        stops = parts.tokenizer.stop_token_ids
        sampling = SamplingParameters(self.request.temperature, settings.max_response_tokens, stops)
        max_turns = self.request.max_turns or settings.max_turns
        rules = Rules(max_turns, settings.engine.max_model_len, settings.turn_reward)
        async with parts.environments.lease(task.environment) as session:
            waited = time.perf_counter() - started
            if parts.gateway is not None:
                chat = ChatBuilder(parts.tokenizer, prompt)
                program = ProgramAgent(settings.program, parts.gateway, parts.engine, chat, sampling)
                return await play_program(task, program, session, rules, waited)
            builder = self.make_builder(self.block.text if task.memory_snapshot else "")
            return await play(task, Agent(parts.engine, builder, sampling), session, rules, waited)
