"""Checkpoints of a run: one folder a step, written aside and renamed, with a manifest that says where the run stands.

    RUN/checkpoints/step-000012/manifest.json      counters, versions and the task frontier
    RUN/checkpoints/step-000012/learner/           weights, optimiser and random states, in shards (LearnerWorker.save)
    RUN/checkpoints/step-000012/ready/<id>.*.arrow groups that are finished but not yet trained, from the recorder
    RUN/checkpoints/step-000012/**/digests.json    what the files held when they were written (trajectories.digests)

A checkpoint in which a file has changed since is set aside as step-000012.damaged, and an earlier one taken.
On a cluster the run directory lies on storage that every node sees.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ConfigDict

from trajectories import digests
from trajectories.errors import UserError
from trajectories.files import remove, written_aside

FORMAT = 5
LEARNER, READY, MANIFEST = "learner", "ready", "manifest.json"
"""Folders and a file in a checkpoint."""
STEP_FOLDER = re.compile(r"step-(\d{6,})")


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PendingGroup(Frozen):
    """A group that must be issued again: it was in flight, or its data grew too old. `position` names its task."""

    position: int
    attempts: int = 0


class Played(Frozen):
    """Episodes of one environment, how many of them solved their task, and their turns."""

    episodes: int = 0
    successes: int = 0
    turns: int = 0


class Frontier(Frozen):
    """Which tasks of the current stage are behind the learner and which are still ahead of it.

    Attributes:
        cursor: position in the task order (`cluster.loop.tasks.index_at`) of the next task never issued.
        trained, filtered, skipped: positions trained, given up for good, and left out since they taught nothing.
        pending: to be issued again before new ones.
        ready: finished but not yet trained; their tables lie beside the manifest.
        skips: groups skipped since a batch was last full.
        skipped_play: what was played in groups skipped since a batch was last handed out, by environment.
    """

    cursor: int = 0
    trained: tuple[int, ...] = ()
    filtered: tuple[int, ...] = ()
    skipped: tuple[int, ...] = ()
    pending: tuple[PendingGroup, ...] = ()
    ready: tuple[int, ...] = ()
    skips: int = 0
    skipped_play: dict[str, Played] = {}


class Manifest(Frozen):
    """Where a run stands after `step` learner steps.

    Attributes:
        version: version of the weights in this checkpoint.
        stage, stage_step: index of the stage in the schedule, and learner steps done in it.
        parts: parts of the trajectory store that belong to these steps.
        evaluated: names of evaluations already done.
        panels: hash of each training panel by its name; a resumed run must see the same tasks.
        memory: snapshot of the run's memory of experience; None where it keeps none.
    """

    format: int = FORMAT
    step: int = 0
    version: int = 0
    stage: int = 0
    stage_step: int = 0
    parts: int = 0
    evaluated: tuple[str, ...] = ()
    panels: dict[str, str] = {}
    memory: int | None = None
    frontier: Frontier = Frontier()


def step_dir(run_dir: Path, step: int) -> Path:
    return run_dir / "checkpoints" / f"step-{step:06d}"


class Saving(Protocol):
    """What of a learner the writer of checkpoints needs: see `cluster.loop.ports.Learner`."""

    async def begin_save(self, folder: Path) -> None: ...

    async def end_save(self) -> None: ...


class CheckpointWriter:
    """Writes the checkpoints of a run, one at a time. One that was begun holds what there was then, and the run may go
    on before it is written; it is complete as soon as it has its name, which `end` gives it."""

    def __init__(self, run_dir: Path, keep: int, learner: Saving) -> None:
        self._run_dir, self._keep, self._learner = run_dir, keep, learner
        self._begun: tuple[Path, ExitStack] | None = None

    async def begin(self, manifest: Manifest, save_data: Callable[[Path], Awaitable[None]]) -> None:
        """Begin to write the checkpoint of `manifest.step`, after the one before it.

        `save_data` writes the ready groups to a folder; what the manifest counts must lie on disk when it returns.
        """
        await self.end()
        with ExitStack() as stack:
            aside = stack.enter_context(written_aside(step_dir(self._run_dir, manifest.step)))
            aside.mkdir()
            await self._learner.begin_save(aside / LEARNER)
            await save_data(aside / READY)
            (aside / MANIFEST).write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
            self._begun = aside, stack.pop_all()

    async def end(self) -> None:
        """Wait until what was begun is written, if anything, and delete all checkpoints but the newest to be kept."""
        if self._begun is None:
            return
        (aside, stack), self._begun = self._begun, None
        with stack:
            await self._learner.end_save()
            digests.write_digests(aside, digests.digests_of(aside, digests.files_without(aside)))
        for old in checkpoint_steps(self._run_dir)[: -self._keep]:
            shutil.rmtree(step_dir(self._run_dir, old))


def has_checkpoint(run_dir: Path) -> bool:
    """Whether there is anything to go on from; a run that ended before its first checkpoint begins anew."""
    return bool(checkpoint_steps(run_dir))


def sound_checkpoint(run_dir: Path) -> tuple[Path, dict[Path, str]]:
    """The newest checkpoint of a run that is as it was written, and what is wrong with those after it.

    Raises UserError when there is none.
    """
    damaged: dict[Path, str] = {}
    for step in reversed(checkpoint_steps(run_dir)):
        checkpoint = step_dir(run_dir, step)
        if (fault := digests.damage(checkpoint)) is None:
            return checkpoint, damaged
        damaged[checkpoint] = fault
    if damaged:
        newest, fault = next(iter(damaged.items()))
        raise UserError(f"no checkpoint of {run_dir} is sound ({newest.name}: {fault}): begin anew with another --out.")
    raise UserError(f"{run_dir} has no checkpoint to resume from: leave out --resume, or name another --out.")


def set_aside(checkpoint: Path) -> Path:
    """Give a damaged checkpoint a name that is none, in place of one set aside before it; its new path."""
    target = checkpoint.with_name(f"{checkpoint.name}.damaged")
    remove(target)
    return checkpoint.rename(target)


def load_manifest(checkpoint: Path) -> Manifest:
    """Raises UserError when the manifest is missing, damaged or of another format."""
    try:
        manifest = Manifest.model_validate_json((checkpoint / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # pydantic's and that of UTF-8 are ValueErrors
        raise UserError(
            f"{checkpoint} is no readable checkpoint: delete that folder to resume from an earlier one."
        ) from error
    if manifest.format != FORMAT:
        raise UserError(
            f"{checkpoint} has checkpoint format {manifest.format}, not {FORMAT}: use the version that wrote it."
        )
    return manifest


def checkpoint_steps(run_dir: Path) -> list[int]:
    """The steps after which a complete checkpoint was written and is kept, in order."""
    folder = run_dir / "checkpoints"
    if not folder.is_dir():
        return []
    matches = (STEP_FOLDER.fullmatch(entry.name) for entry in folder.iterdir())
    return sorted(int(match[1]) for match in matches if match)
