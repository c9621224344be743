"""Runs as a report reads them: finished, half written, or still under way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cluster.reporting.curve import is_finished
from cluster.reporting.evaluation import Evaluations, run_evaluations
from cluster.reporting.metrics import read_metrics
from trajectories.errors import UserError, first_line
from trajectories.files import reading


@dataclass(frozen=True, slots=True)
class Run:
    """A run's small files. Its trajectories stay where they are.

    Attributes:
        name: of its folder, with as much of the path before it as tells it from the other runs.
        config: as `config.yaml` has it; a run of an older version may have settings that there are no more.
        records: one a step, as in `metrics.jsonl`.
        finished: it has written its model and its curve, the last that it writes.
    """

    folder: Path
    name: str
    config: Mapping[str, Any]
    records: Sequence[Mapping[str, Any]]
    evaluations: Evaluations
    finished: bool

    @property
    def played(self) -> list[int]:
        """The steps that had rollouts, in order: each wrote one part of the trajectories."""
        return [record["step"] for record in self.records if "episodes" in record]


def read_runs(folders: Sequence[Path]) -> tuple[Run, ...]:
    """The runs in these folders. Raises UserError: a folder holds no run or a damaged file, or is named twice."""
    resolved = [folder.resolve() for folder in folders]
    for at, folder in enumerate(resolved):
        if folder in resolved[:at]:
            raise UserError(f"{folders[at]} is named twice: name each run once.")
    return tuple(map(_read_run, folders, short_names(resolved)))


def short_names(folders: Sequence[Path]) -> list[str]:
    """The last parts of different paths, as few as tell them all apart.

    >>> short_names([Path("/a/x/run"), Path("/a/y/run")])
    ['x/run', 'y/run']
    """
    for parts in range(1, max(len(folder.parts) for folder in folders)):
        names = ["/".join(folder.parts[-parts:]) for folder in folders]
        if len(set(names)) == len(folders):
            return names
    return [str(folder) for folder in folders]


def _read_run(folder: Path, name: str) -> Run:
    records = read_metrics(folder) if folder.is_dir() else []
    if any(not isinstance(record, dict) or not {"step", "stage"} <= record.keys() for record in records):
        raise UserError(f"{folder / 'metrics.jsonl'} holds lines that are no steps of a run: move it away.")
    return Run(
        folder=folder,
        name=name,
        config=_read_config(folder),
        records=records,
        evaluations=run_evaluations(folder),
        finished=is_finished(folder),
    )


def _read_config(folder: Path) -> dict[str, Any]:
    file = folder / "config.yaml"
    if not folder.is_dir() or not file.exists():
        raise UserError(f"{folder} holds no run: name a folder that `concerto train --out` has written.")
    with reading(file, "restore it from the run's start."):
        text = file.read_text(encoding="utf-8")
    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{file} is no YAML ({first_line(error)}): restore it from the run's start.") from None
    if not text.endswith("\n"):
        raise UserError(f"{file} is cut off: restore it from the run's start.")
    if not isinstance(values, dict):
        raise UserError(f"{file} is no configuration of a run: it holds no keys; restore it from the run's start.")
    return values
