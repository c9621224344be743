"""A simulated learner and simulated rollouts: the control loop's outside world in a few lines, without Ray or vLLM."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.config.sections import CheckpointSettings, EvaluationSettings, ScheduleSettings, Stage
from cluster.loop.checkpoint import Manifest
from cluster.loop.coordinator import Coordinator
from cluster.loop.ports import FinishedGroup, GroupTask, Parts, Trained, finished_group
from cluster.loop.programme import Programme
from cluster.loop.stream import RunError
from cluster.loop.tasks import TaskMixture
from envs.panels import Panel
from trajectories.schema import concat_tables, to_tables
from trajectories.store import TrajectoryStore, read_group, write_group
from trajectories.types import Episode, StopReason, Trajectory, Turn, VersionSpan
from trajectories.types import Sequence as TokenSequence

TASKS = tuple(f"task-{index}" for index in range(7))


def trajectory(task: GroupTask, member: int, version: int, error: str | None = None) -> Trajectory:
    """A two-token episode."""
    episode_id = f"{task.group_id}/{member}"
    success = task.seeds[member] % 2 == 0 and not error
    episode = Episode(
        episode_id=episode_id,
        group_id=task.group_id,
        member=member,
        environment=task.environment,
        split=task.split,
        task_id=task.task_id,
        seed=task.seeds[member],
        version_min=version,
        version_max=version,
        stop_reason=StopReason.ERROR if error else StopReason.DONE,
        success=success,
        rewards={"success": float(success)} | ({"score": 0.5} if task.environment == "shop" else {}),
        turns=1,
        generation_seconds=0.0,
        environment_seconds=0.0,
        waiting_seconds=0.0,
        error=error,
    )
    tokens = TokenSequence(
        sequence_id=f"{episode_id}-0",
        episode_id=episode_id,
        group_id=task.group_id,
        token_ids=np.array([1, 2], np.int32),
        trained=np.array([False, True]),
        logprobs=np.array([0.0, -0.5], np.float32),
        turns=(Turn(1, 2, 1.0, 0, True),),
        version_spans=(VersionSpan(1, 2, version),),
        temperature=task.temperature,
    )
    return Trajectory(episode, (tokens,))


@dataclass(frozen=True)
class Held:
    """The handle of a group's tables: the loop passes it on."""

    episodes: pa.Table
    sequences: pa.Table


@dataclass
class SimulatedRollouts:
    """Groups take random times, so that they finish out of order. `failing` tasks never close with enough members."""

    concurrency: int = 4
    seed: int = 0
    slowness_s: float = 0.003
    failing: frozenset[str] = frozenset()
    version: int = 0
    running: int = 0
    most_running: int = 0
    stall: bool = False

    def room(self, members: int) -> int:
        return self.concurrency

    async def run_group(self, task: GroupTask) -> FinishedGroup:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        version = self.version
        try:
            if self.stall:
                await asyncio.Event().wait()
            await asyncio.sleep(random.Random(f"{self.seed}{task.group_id}").random() * self.slowness_s)
        finally:
            self.running -= 1
        error = "broken" if task.task_id in self.failing else None
        members = [trajectory(task, member, version, error) for member in range(len(task.seeds))]
        episodes, sequences = to_tables(members)
        return finished_group(episodes, Held(episodes, sequences))


@dataclass
class SimulatedLearner:
    """Remembers which tasks it was trained on, at which staleness; its whole state is in its checkpoint."""

    slowness_s: float = 0.002
    trained: list[str] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    staleness: list[int] = field(default_factory=list)
    steps: int = 0
    base_version: int = 0
    tokens: float = 8.0
    saving: tuple[Path, str] = (Path(), "")

    async def train(self, stage: str, groups: Sequence[Any], demonstrations: Sequence[int]) -> Trained:
        await asyncio.sleep(self.slowness_s)
        for group in groups:
            episodes = group.episodes
            self.trained.append(episodes["task_id"][0].as_py())
            self.staleness.append(self.steps - min(episodes["version_min"].to_pylist()))
        self.rows.extend(demonstrations)
        self.steps += 1
        return Trained({"loss": 1.0 / self.steps, "trained_tokens": self.tokens})

    async def begin_save(self, folder: Path) -> None:
        folder.mkdir()
        state = {"trained": self.trained, "rows": self.rows, "staleness": self.staleness, "steps": self.steps}
        self.saving = folder / "state.json", json.dumps(state)

    async def end_save(self) -> None:
        await asyncio.sleep(self.slowness_s)
        file, text = self.saving
        file.write_text(text)

    async def restore(self, folder: Path) -> None:
        for name, value in json.loads((folder / "state.json").read_text()).items():
            setattr(self, name, value)


@dataclass
class SimulatedRecorder:
    """Writes where the recorder actor does, in this process. `slowness_s` is the time of one write."""

    directory: Path
    slowness_s: float = 0.0
    broken: str | None = None
    writing: int = 0
    most_writing: int = 0

    async def truncate(self, parts: int) -> None:
        TrajectoryStore(self.directory).truncate(parts)

    async def write(self, part: int, groups: Sequence[Any], assignments: pa.Table | None) -> None:
        self.writing += 1
        self.most_writing = max(self.most_writing, self.writing)
        await asyncio.sleep(self.slowness_s)
        self.writing -= 1
        if self.broken:
            raise RunError(self.broken)
        episodes = concat_tables(group.episodes for group in groups)
        sequences = concat_tables(group.sequences for group in groups)
        TrajectoryStore(self.directory).write(part, episodes, sequences, assignments)

    async def keep(self, folder: Path, ready: Mapping[int, Any]) -> None:
        for position, group in ready.items():
            await asyncio.sleep(self.slowness_s)
            write_group(folder, position, group.episodes, group.sequences)

    async def read(self, folder: Path, position: int) -> FinishedGroup:
        held = Held(*read_group(folder, position))
        return finished_group(held.episodes, held)


@dataclass
class Log:
    """Remembers what the loop said. `at_step` is called with every finished step."""

    metrics: list[dict[str, float]] = field(default_factory=list)
    evaluations: list[str] = field(default_factory=list)
    at_step: Any = None

    def stage(self, stage: Stage, done: int) -> None: ...

    def say(self, line: str) -> None: ...

    def step(self, step: int, stage: str, metrics: dict[str, float]) -> None:
        self.metrics.append(metrics | {"step": step})
        if self.at_step:
            self.at_step(step)


PANEL = Panel("mock/train", TASKS, "c0ffee")


@dataclass
class World:
    """All that the loop runs on; what a test does not name is the plain one."""

    rollouts: SimulatedRollouts = field(default_factory=SimulatedRollouts)
    learner: SimulatedLearner = field(default_factory=SimulatedLearner)
    log: Log = field(default_factory=Log)
    recorder: SimulatedRecorder | None = None
    memory: int | None = None

    async def keep_best(self, name: str) -> None: ...

    async def publish(self, version: int) -> dict[str, float]:
        self.rollouts.version = self.learner.steps
        return {"parity_error": 0.0}

    async def evaluate(self, name: str) -> None:
        self.log.evaluations.append(name)

    def parts(self, run_dir: Path) -> Parts:
        recorder = self.recorder or SimulatedRecorder(run_dir / "trajectories")
        parts = Parts(self.rollouts, self.learner, recorder, self.publish, self.evaluate, self.keep_best, self.log)
        return replace(parts, memory=lambda: self.memory)


def programme(
    schedule: ScheduleSettings,
    panels: tuple[Panel, ...] = (PANEL,),
    checkpoint: CheckpointSettings = CheckpointSettings(),  # noqa: B008 (frozen)
) -> Programme:
    return Programme(3, TaskMixture(panels), range(10), ("success",), schedule, EvaluationSettings(), checkpoint)


def coordinator(run_dir: Path, programme: Programme, world: World) -> Coordinator:
    return Coordinator(run_dir, programme, world.parts(run_dir), Manifest())
