"""The folder of a run before the run: whether it can be written, and whether a run in it goes on, or begins."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from cluster.config.loading import UNREADABLE, check_config
from cluster.config.run import RunSettings
from cluster.loop.checkpoint import has_checkpoint, sound_checkpoint
from trajectories.errors import UserError
from trajectories.files import LEAST_FREE, check_folder, reading, storing, written_aside

CONFIG = "config.yaml"
LEFT_BY_A_START = (
    "best",
    "demonstrations.parquet",
    "evaluations",
    "learning_curve.svg",
    "measured.parquet",
    "memory",
    "metrics.jsonl",
    "ray_train",
    "routes.parquet",
    "tensorboard",
    "trajectories",
)
"""What a run may have written before its first checkpoint. Nothing else in its folder is ever removed."""

FREE_TO_CHANGE = {
    "placement": True,
    "evaluation": True,
    "checkpoint": True,
    "data": True,
    "reward": {"constant_limit": True},
    "router": {"cache": True},
    "experience": {"base_url": True, "token_budget": True},
}
"""What a resumed run may change: none of it decides what is trained, and the panels' hashes tell whether the data
elsewhere are the same."""


@dataclass(frozen=True, slots=True)
class Start:
    """Where a run starts.

    Attributes:
        checkpoint: what it goes on from; None where it begins.
        again: an earlier start in the folder reached no checkpoint, so that the run begins anew.
        stale: what that start left which does not belong to this run: to be removed before it begins.
        damaged: newer checkpoints, by what is wrong with each: to be set aside before it goes on.
    """

    checkpoint: Path | None = None
    again: bool = False
    stale: tuple[Path, ...] = ()
    damaged: Mapping[Path, str] = field(default_factory=dict)


def find_start(config: RunSettings, run_dir: Path, resume: bool) -> Start:
    """Where a run in this folder starts. A folder without a checkpoint can be started anew, with any settings.

    Raises UserError: the folder holds a run and `resume` is not asked for, or holds none and it is; the run in it
    trained something else; or the folder holds files that are no run's.
    """
    file = run_dir / CONFIG
    if not file.exists():
        if resume:
            raise UserError(f"{run_dir} holds no run to resume: leave out --resume, or name another --out.")
        return Start()
    begun = has_checkpoint(run_dir)
    if not resume and (begun or (run_dir / "model").exists()):
        raise UserError(f"{run_dir} already holds a run: add --resume to go on with it, or name another --out.")
    differing = _differing(config, saved_config(run_dir))
    if begun and differing:
        raise UserError(
            f"the section {differing!r} differs from that of the run in {run_dir}: resume with --config {file}, "
            "or start a new run with another --out."
        )
    if begun:
        checkpoint, damaged = sound_checkpoint(run_dir)
        return Start(checkpoint, damaged=damaged)
    kept = resume and not differing  # the same run: what it made before its first checkpoint is still good
    stale = () if kept else tuple(path for name in LEFT_BY_A_START if (path := run_dir / name).exists())
    return Start(again=True, stale=stale)


def saved_config(run_dir: Path) -> RunSettings:
    """The configuration of the run in a folder. Raises UserError when it cannot be read or is none."""
    file = run_dir / CONFIG
    with reading(file, "restore it, or name another --out."):
        text = file.read_text(encoding="utf-8")
    try:
        values = yaml.safe_load(text)
        if not isinstance(values, dict):
            raise UserError("it holds no keys")
        return check_config(values)
    except (*UNREADABLE, UserError) as error:
        raise UserError(
            f"{file} is no configuration of a run ({' '.join(str(error).split()).rstrip('.')}): remove that file, or "
            "name another --out."
        ) from None


def save_config(config: RunSettings, run_dir: Path) -> None:
    with written_aside(run_dir / CONFIG) as aside:
        aside.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), encoding="utf-8")


def check_room(run_dir: Path, model: str) -> None:
    """Whether the run can be written. Room is wanted for the trained model, which is as large as the model; what
    checkpoints need depends on the settings and comes on top. Raises UserError."""
    weights = sum(file.stat().st_size for file in Path(model).glob("*.safetensors"))
    check_folder(run_dir, LEAST_FREE + weights)


@contextmanager
def held(run_dir: Path) -> Iterator[None]:
    """The folder belongs to this process meanwhile: a second one would begin anew what the first has not saved yet.

    Raises UserError when another process has it. A file system without locks is taken on trust.
    """
    file = run_dir / ".lock"
    with storing(file):
        lock = file.open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process trains in {run_dir}: wait until it has ended, or name another --out."
            ) from None
        except OSError:
            pass
        yield


def _differing(config: RunSettings, saved: RunSettings) -> str | None:
    """The first section in which they would train something else."""
    before, now = (one.model_dump(exclude=FREE_TO_CHANGE) for one in (saved, config))
    return next((name for name in now if before[name] != now[name]), None)
