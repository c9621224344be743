"""The control loop: starts groups, trains on finished ones, publishes weights, and checkpoints, stage after stage.

It passes handles and small structs, never token data, and knows neither Ray nor vLLM: see `cluster.loop.ports`.
While the learner steps, rollouts go on; the staleness gate bounds by how much they may fall behind.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from cluster.config.sections import Stage
from cluster.loop.checkpoint import LEARNER, READY, CheckpointWriter, Frontier, Manifest, Played, load_manifest
from cluster.loop.frontier import GroupFrontier
from cluster.loop.idle import IdleWatch
from cluster.loop.ports import FinishedGroup, Parts
from cluster.loop.programme import Programme
from cluster.loop.recording import Recording
from cluster.loop.staleness import StalenessGate
from cluster.loop.stream import GroupStream
from trajectories.errors import ConcertoError

Result = TypeVar("Result")


class Interrupted(ConcertoError):
    """The run was asked to stop and has written a checkpoint."""

    exit_code = 130
    fix = "checkpoint written, go on with --resume"


class Coordinator:
    """Carries out a programme from a manifest to its end."""

    def __init__(self, run_dir: Path, programme: Programme, parts: Parts, manifest: Manifest) -> None:
        self.manifest = manifest
        self._run_dir, self._programme, self._parts = run_dir, programme, parts
        self._recording = Recording(parts.recorder)
        self._idle = IdleWatch(programme.schedule.max_idle)
        self._stop = asyncio.Event()
        self._stream: GroupStream | None = None
        self._published = -1
        self._parity: dict[str, float] = {}
        self._checkpoints = CheckpointWriter(run_dir, programme.checkpoint.keep, parts.learner)
        self._saving_s = 0.0  # of the checkpoint that is being written, of which the next step tells
        self._resumed_from: Path | None = None

    def stop(self) -> None:
        """Ask for a clean stop: a step under way is finished, a checkpoint is written, `run` raises Interrupted."""
        self._stop.set()

    async def restore(self, checkpoint: Path) -> None:
        """Go on from a checkpoint; call before `run`."""
        self._resumed_from = checkpoint
        self.manifest = load_manifest(checkpoint)
        await self._parts.learner.restore(checkpoint / LEARNER)

    async def run(self) -> None:
        """Every stage of the schedule that the manifest has not behind it."""
        await self._parts.recorder.truncate(self.manifest.parts)
        try:
            stages, evaluation = self._programme.stages, self._programme.evaluation
            if evaluation.stages and not self.manifest.step:
                await self._evaluate_once("base")
            await self._evaluate_if_due()  # a run that was stopped while it evaluated has this before it
            while self.manifest.stage < len(stages):
                await self._run_stage(stages[self.manifest.stage])
        except Interrupted:
            await self._save()
            raise
        finally:
            if self._stream is not None:
                await self._stream.close()
            await self._recording.close()
            await self._checkpoints.end()  # whatever ended the run, the last one that it began is good

    async def _run_stage(self, stage: Stage) -> None:
        self._parts.observer.stage(stage, self.manifest.stage_step)
        if stage.plays:
            await self._publish_weights()
            self._stream = await self._open_stream(stage)
        while self.manifest.stage_step < stage.steps and await self._run_step(stage):
            pass
        if self._stream is not None:
            self._move(frontier=self._stream.frontier.snapshot())
            self._stream = None
        if self._programme.evaluation.stages or stage == self._programme.stages[-1]:
            await self._evaluate_once(f"after_{stage.name}")
        self._move(stage=self.manifest.stage + 1, stage_step=0, frontier=Frontier())
        await self._save()

    async def _run_step(self, stage: Stage) -> bool:
        """One learner step on a batch of groups, of demonstrations, or both; then publish, record, and checkpoint.
        False where the stage has no more groups to train."""
        started = time.monotonic()
        groups = await self._next_groups()
        if stage.plays and not groups:
            return False
        waited = time.monotonic() - started
        rows = self._programme.batch_rows(stage.name, self.manifest.step) if stage.demonstrates else []
        trained = await self._parts.learner.train(stage.name, [group.data for group in groups], rows)
        metrics = dict(trained.metrics)
        at = self.manifest
        self._move(step=at.step + 1, stage_step=at.stage_step + 1, version=at.version + 1)
        if self._stream is not None:
            trained_at = time.monotonic()
            metrics |= await self._publish_weights()
            metrics["publish_s"] = time.monotonic() - trained_at
            self._stream.advance(self.manifest.stage_step)
            metrics |= group_metrics(groups, self._stream.frontier, at.version)
            await self._recording.add(at.parts, [group.data for group in groups], trained.assignments)
            self._move(parts=at.parts + 1)
        metrics |= self._parts.gauges() | {"waited_s": waited, "step_s": time.monotonic() - started}
        metrics |= await self._end_save()
        if "probe_s" in metrics:
            metrics["probe_share"] = metrics["probe_s"] / metrics["step_s"]
        self._parts.observer.step(self.manifest.step, stage.name, metrics)
        if self.manifest.step % self._programme.checkpoint.every == 0:
            await self._save()
        if line := self._idle.observe(metrics):
            self._parts.observer.say(f"  step {self.manifest.step}: {line}")
        await self._evaluate_if_due()
        return True

    async def _next_groups(self) -> list[FinishedGroup]:
        self._check_stop()
        if self._stream is None:
            return []
        timeout_s = self._programme.schedule.group_timeout_s
        batch = await self._unless_stopped(self._stream.next_batch(self.manifest.version, timeout_s))
        return list(batch.values())

    async def _open_stream(self, stage: Stage) -> GroupStream:
        schedule, rollouts = self._programme.schedule, self._parts.rollouts
        gate = StalenessGate(
            concurrency=rollouts.room(schedule.group_size),
            max_staleness=schedule.max_staleness,
            batch=schedule.groups_per_step,
            total=stage.steps * schedule.groups_per_step,
        )
        last = self._programme.groups(stage)
        skips = schedule.dynamic_sampling and not stage.demonstrates  # a mixed stage may imitate what it plays
        max_skipped = schedule.max_skipped if skips else 0
        compared = self._programme.compared
        frontier = GroupFrontier(gate, schedule.min_group, schedule.max_attempts, compared, max_skipped, last)
        frontier.restore(self.manifest.frontier, await self._read_ready())
        task_of = partial(self._programme.group_task, self.manifest.stage)
        return GroupStream(rollouts, frontier, task_of, self.manifest.stage_step)

    async def _read_ready(self) -> dict[int, FinishedGroup]:
        """The ready groups of the manifest, from the checkpoint that the run went on from."""
        positions = self.manifest.frontier.ready
        assert self._resumed_from is not None or not positions, "only a checkpoint has ready groups"
        read = self._parts.recorder.read
        return {at: await read(self._resumed_from / READY, at) for at in positions} if self._resumed_from else {}

    async def _publish_weights(self) -> dict[str, float]:
        """Puts the present weights into the engines, once a version; the metrics of the parity check."""
        if self._published != self.manifest.version:
            self._parity = await self._parts.publish(self.manifest.version)
            self._published = self.manifest.version
        return self._parity

    async def _evaluate_if_due(self) -> None:
        step, every = self.manifest.step, self._programme.evaluation.every
        if every and step and step % every == 0:
            await self._evaluate_once(f"step_{step:06d}")

    async def _evaluate_once(self, name: str) -> None:
        """Evaluate unless the manifest says that it was done."""
        if self._programme.evaluation.panels == () or name in self.manifest.evaluated:
            return
        await self._publish_weights()
        await self._unless_stopped(self._parts.evaluate(name))
        await self._parts.keep_best(name)  # not cut off by a stop: workers would be writing when the checkpoint is due
        self._move(evaluated=(*self.manifest.evaluated, name))

    async def _save(self) -> None:
        """Begin to write a checkpoint. All that it counts is on disk before it has its name."""
        started = time.monotonic()
        self._move(memory=self._parts.memory())
        if self._stream is not None:
            self._move(frontier=self._stream.frontier.snapshot())
            groups = dict(self._stream.frontier.ready)  # as the snapshot has it: more may finish meanwhile
        else:  # stopped before the stage went on: it has what the checkpoint before had
            groups = await self._read_ready()
        ready = {position: group.data for position, group in groups.items()}

        async def save_data(folder: Path) -> None:
            if ready:
                await self._parts.recorder.keep(folder, ready)
            await self._recording.flush()

        await self._checkpoints.begin(self.manifest, save_data)
        self._saving_s = time.monotonic() - started

    async def _end_save(self) -> dict[str, float]:
        """Wait for the checkpoint that is being written, if any; the seconds that the run waited for it in all."""
        begun, started, self._saving_s = self._saving_s, time.monotonic(), 0.0
        await self._checkpoints.end()
        return {"checkpoint_s": begun + time.monotonic() - started} if begun else {}

    def _move(self, **changes: Any) -> None:
        self.manifest = self.manifest.model_copy(update=changes)

    async def _unless_stopped(self, work: Coroutine[Any, Any, Result]) -> Result:
        """The result of `work`; when a stop is asked for before it is there, cancels it and raises Interrupted."""
        task, stop = asyncio.create_task(work), asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pending in (task, stop):
                pending.cancel()
            await asyncio.gather(task, stop, return_exceptions=True)
        if task.cancelled():
            raise Interrupted(f"stopped after step {self.manifest.step}")
        return task.result()  # also when it ended as it was cancelled: a batch that was handed out must be trained

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise Interrupted(f"stopped after step {self.manifest.step}")


def group_metrics(groups: Sequence[FinishedGroup], frontier: GroupFrontier, version: int) -> dict[str, float]:
    """Size, success (in all and by environment), turns and failures of a batch, how far it was behind the weights of
    `version` that it trained, what was skipped for it, what waits, and the gate's counters."""
    gate = frontier.gate
    behind = [version - group.oldest_version for group in groups]
    members = sum(group.members for group in groups)
    informative = sum(group.is_informative(frontier.compared) for group in groups)
    skipped = frontier.batch_skipped_play
    played = {
        name: _played(name, groups, skipped)
        for name in sorted({group.environment for group in groups} | skipped.keys())
    }
    return {
        "groups": float(len(groups)),
        "episodes": float(members),
        "success": _success(played.values()),
        **{f"success/{environment}": _success([of_it]) for environment, of_it in played.items()},
        "turns": sum(group.turns for group in groups) / members,
        "failed_episodes": float(sum(group.failed for group in groups)),
        "truncated": sum(group.truncated for group in groups) / members,
        "length_limited": sum(group.length_limited for group in groups) / members,
        "informative_groups": informative / len(groups),
        "staleness": sum(behind) / len(groups),
        "staleness_max": float(max(behind)),
        **{f"staleness/{age}": behind.count(age) / len(groups) for age in range(max(gate.max_staleness, *behind) + 1)},
        "skipped_turns": float(sum(play.turns for play in skipped.values())),
        "groups_ready": float(len(frontier.ready)),
        "groups_submitted": float(gate.submitted),
        "groups_accepted": float(gate.accepted),
        "groups_filtered": float(gate.filtered),
        "groups_skipped": float(gate.skipped),
        "groups_running": float(gate.running),
    }


def _played(environment: str, groups: Sequence[FinishedGroup], skipped: Mapping[str, Played]) -> tuple[int, int]:
    """Episodes of an environment and those solved: of its groups, and of those skipped for them, without which success
    would say how groups are chosen."""
    its, left = [group for group in groups if group.environment == environment], skipped.get(environment, Played())
    episodes = sum(group.members for group in its) + left.episodes
    return episodes, sum(group.successes for group in its) + left.successes


def _success(played: Iterable[tuple[int, int]]) -> float:
    episodes, solved = map(sum, zip(*played, strict=True))
    return solved / episodes
