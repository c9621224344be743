"""A whole run in this process: everything of `assembled` but engines, processes and the object store.

The policy's words do not matter where a test asks which way a setting takes through a run; a model that speaks takes
half a minute to start, and each actor some seconds.
"""

from __future__ import annotations

import io
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from actors import runtime
from actors.engine import Generation, SamplingParameters
from actors.group_references import GroupReferences
from actors.rollout_group import GroupRequest, RolloutParts, play_group
from cluster.config.run import RunSettings
from cluster.config.sections import PlacementSettings
from cluster.inputs.run_plan import plan_run
from cluster.loop.ports import FinishedGroup, GroupTask, finished_group
from cluster.reporting.entropy import EntropyWatch
from cluster.reporting.metrics import MetricsWriter, read_metrics
from cluster.reporting.progress import RunObserver
from cluster.runtime import assembly
from envs import make_environment
from envs.base import Observation, StepResult
from envs.prompts import instructions
from learners.policy.parity import Scores
from tests.actors.scripted import ScriptedEngine
from trajectories.builder import make_builder
from trajectories.chat import ChatTokenizer
from trajectories.schema import to_tables


class Chatterer(ScriptedEngine):
    """Says one of its responses, by the seed of the turn."""

    async def generate(
        self, prompt_ids: np.ndarray, sampling: SamplingParameters, seed: int | None = None
    ) -> Generation:
        said = random.Random(seed).choice(self._responses)
        engine = ScriptedEngine(self._encode, [said])
        return replace(await engine.generate(prompt_ids, sampling, seed), version=self.version)


class Session:
    """A real environment in this process."""

    def __init__(self, environment: Any) -> None:
        self._environment, self.reward_names = environment, environment.reward_names

    async def reset(self, task_id: str, seed: int) -> Observation:
        return self._environment.reset(task_id, seed)

    async def step(self, action: str) -> StepResult:
        return self._environment.step(action)


class Fleet:
    """Rollouts of the real environments by an engine that chatters."""

    def __init__(self, config: RunSettings, model: str, environments: Sequence[str], responses: Sequence[str]) -> None:
        self._config, self._tokenizer = config, ChatTokenizer.from_pretrained(model)
        self._engine = Chatterer(self._tokenizer.encode_response, responses)
        opened = {name: make_environment(name, *config.opening(name)) for name in environments}
        self.reward_names = {name: environment.reward_names for name, environment in opened.items()}

    @property
    def version(self) -> int:
        return self._engine.version

    @asynccontextmanager
    async def lease(self, environment: str) -> AsyncIterator[Session]:
        yield Session(make_environment(environment, *self._config.opening(environment)))

    def room(self, members: int) -> int:
        return 4

    async def run_group(self, task: GroupTask) -> FinishedGroup:
        request = GroupRequest(
            task.group_id, task.environment, task.task_id, task.seeds, self.version, task.temperature, task.split
        )
        settings = self._config.fitted_rollout
        told = instructions(task.environment, settings.prompt)
        played = await play_group(
            request,
            settings,
            RolloutParts(self._engine, self._tokenizer, self),
            lambda advice: make_builder(self._tokenizer, settings.prompt, told),
        )
        episodes, sequences = to_tables(played)
        return finished_group(episodes, GroupReferences(runtime.put(episodes), runtime.put(sequences)))

    async def publish(self, weights: Any, version: int) -> None:
        self._engine.version = version

    async def score(self, token_ids: Any, temperature: float) -> list[Scores]:
        """Nothing that a parity check may look at: give the run any tolerance."""
        return [[np.zeros(len(ids), np.float32) for ids in runtime.get(token_ids)]]


async def run_here(
    monkeypatch: pytest.MonkeyPatch, config: RunSettings, run_dir: Path, responses: Sequence[str]
) -> list[dict[str, Any]]:
    """Train from beginning to end; the records of `metrics.jsonl`."""

    @asynccontextmanager
    async def fleet(config: RunSettings, model: str, environments: Sequence[str], run: str) -> AsyncIterator[Fleet]:
        yield Fleet(config, model, environments, responses)

    monkeypatch.setattr(assembly, "open_fleet", fleet)
    config = config.model_copy(update={"placement": PlacementSettings(inline=True)})
    plan = plan_run(config, run_dir, resume=False)
    run_dir.mkdir(parents=True, exist_ok=True)
    writer = MetricsWriter(run_dir, 1)
    told = RunObserver(Console(file=io.StringIO()), writer, EntropyWatch(config.grpo.entropy_floor))
    with told as observer, runtime.in_process():
        async with assembly.assembled(plan, observer) as built:
            await built.coordinator.run()
    return read_metrics(run_dir)
