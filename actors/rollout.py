"""The rollout actor: one engine, many episodes at once, groups of them on request."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray
from ray.actor import ActorHandle

from actors import runtime
from actors.engine import EngineDied, SamplingParameters
from actors.environment_host import EnvironmentPool
from actors.program import check_program
from actors.rollout_group import GroupRequest, RolloutParts, RolloutSettings, play_group
from envs.prompts import instructions
from experience.protocols import Completion, RefusedRequest
from learners.policy.weight_update import WeightUpdate
from trajectories.builder import PromptBuilder, make_builder
from trajectories.chat import ChatTokenizer, Message
from trajectories.schema import to_tables

if TYPE_CHECKING:
    from actors.gateway import Gateway

logger = logging.getLogger(__name__)

CALLS_AT_ONCE = 1000
"""Groups, publications and health checks at the same time; the bound on episodes is `RolloutSettings.episodes`."""
SHORTEST_REPLY = 64
"""Tokens that a completion must have room for; a shorter one could hold no JSON that says something."""


@dataclass(frozen=True, slots=True)
class Health:
    """A sign of life. After a restart the version is 0 again: publish before the next group."""

    pid: int
    version: int


class RolloutActor:
    """Runs as an asynchronous Ray actor. The engine starts with the first call, so that a restarted actor needs no
    other care than a publication. When the engine dies the actor dies with it: callers see one kind of death.

    Args:
        settings: how the engine runs and how episodes are prompted and played.
        model: directory or name of the model to start from, version 0.
        hosts: names of the environment hosts, shared with other rollout actors. (Handles as constructor arguments would
            lie in the object store, and Ray could not restart the actor once they are gone from there.)
        name: the actor's own, for slots and logs.
    """

    def __init__(self, settings: RolloutSettings, model: str, hosts: Sequence[str], name: str) -> None:
        self._settings = settings
        self._model = model
        self._hosts = hosts
        self._name = name
        self._starting: asyncio.Task[RolloutParts] | None = None
        self._closing = False

    async def check_health(self) -> Health:
        """Answers once the engine is ready."""
        return Health(os.getpid(), (await self._ready()).engine.stats().version)

    @ray.method(num_returns=2)
    async def run_group(self, request: GroupRequest) -> tuple[pa.Table, pa.Table]:
        """A group's tables: episodes, sequences. Two references for the caller, who may leave the second unfetched.

        The caller owns both objects, so what was finished outlives this actor. Raises as
        `actors.rollout_group.play_group`.
        """
        parts, prompt = await self._ready(), self._settings.prompt
        told = instructions(request.environment, prompt)

        def builder(advice: str) -> PromptBuilder:
            return make_builder(parts.tokenizer, prompt, replace(told, advice=advice))

        with self._dying_with_engine():
            return to_tables(await play_group(request, self._settings, parts, builder))

    async def publish(self, update: WeightUpdate) -> None:
        """See `actors.engine.Engine.publish`. Pass adapters as an object reference: Ray hands them over in shared
        memory."""
        engine = (await self._ready()).engine
        with self._dying_with_engine():
            await engine.publish(update)

    async def score_logprobs(
        self, sequences: Sequence[npt.NDArray[np.int32]], temperature: float = 1.0
    ) -> list[npt.NDArray[np.float32]]:
        """See `actors.engine.Engine.score_logprobs`."""
        engine = (await self._ready()).engine
        with self._dying_with_engine():
            return await engine.score_logprobs(sequences, temperature)

    async def complete(
        self, messages: Sequence[Message], schema: str, max_tokens: int, temperature: float
    ) -> Completion:
        """One completion that fits a JSON schema; see `actors.policy_chat`. Rollouts go on beside it.

        Raises:
            RefusedRequest: the context has no room for a reply.
            EngineError: the engine failed.
        """
        parts, context = await self._ready(), self._settings.engine.max_model_len
        text = parts.tokenizer.render(list(messages), options=self._settings.prompt.template_options)
        prompt = np.asarray(parts.tokenizer.encode(text), np.int32)
        if (room := context - len(prompt)) < SHORTEST_REPLY:
            raise RefusedRequest(
                f"its {len(prompt)} tokens leave no room for a reply in rollout.engine.max_model_len {context}: raise "
                "that"
            )
        limits = min(max_tokens, room), parts.tokenizer.stop_token_ids
        with self._dying_with_engine():
            reply = await parts.engine.generate(prompt, SamplingParameters(temperature, *limits, schema))
        return Completion(parts.tokenizer.action(reply.token_ids.tolist()), len(prompt), len(reply.token_ids))

    async def close(self) -> None:
        """End engine and gateway; groups that are being played fail. The actor is of no use afterwards."""
        self._closing = True
        if self._starting is not None:
            parts = await self._starting
            if parts.gateway is not None:
                await parts.gateway.close()
            await parts.engine.close()

    async def _ready(self) -> RolloutParts:
        if self._starting is None:
            self._starting = asyncio.create_task(self._start())
        return await asyncio.shield(self._starting)

    async def _start(self) -> RolloutParts:
        from actors.vllm_engine import VllmEngine  # seconds to import, and needed in this process only

        tokenizer = ChatTokenizer.from_pretrained(self._model)
        settings = self._settings
        hosts = [runtime.find(host) for host in self._hosts]
        environments = await EnvironmentPool.open(hosts, self._name, settings.episodes, settings.environment_timeout_s)
        gateway = await self._open_gateway() if settings.program.command else None
        engine = await VllmEngine.start(self._model, settings.engine)
        return RolloutParts(engine, tokenizer, environments, gateway)

    async def _open_gateway(self) -> Gateway:
        from actors.gateway import Gateway  # a web server, which runs without an agent program do not need

        check_program(self._settings.program)
        return await Gateway.start()

    @contextmanager
    def _dying_with_engine(self) -> Iterator[None]:
        try:
            yield
        except EngineDied as death:
            if self._closing:  # its end is no death, which Ray would tell at length
                raise
            logger.critical("%s ends: %s", self._name, death)
            os._exit(1)


def start_rollout_actor(
    settings: RolloutSettings, model: str, hosts: Sequence[str], options: Mapping[str, Any]
) -> ActorHandle:
    """A rollout actor that Ray restarts when it dies.

    Calls that were in progress fail with RayActorError and are not repeated: the coordinator decides what to play
    again, and publishes first.

    Args:
        hosts: names of the environment hosts.
        options: Ray's actor options: name (readable in the dashboard, e.g. `concerto:run:rollout-0`), num_cpus,
            num_gpus, scheduling_strategy, …
    """
    lives = {"max_restarts": -1, "max_task_retries": 0, "max_concurrency": CALLS_AT_ONCE}
    return runtime.start(RolloutActor, {**lives, **options}, settings, model, hosts, options["name"])
