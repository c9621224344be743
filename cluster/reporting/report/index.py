"""The episodes of a run as a small table in memory, so that they can be listed and filtered; their tokens stay on disk.

A row takes some hundred bytes, so that a run of 100,000 episodes is read in one go. Parts are small: reading one after
the other is faster and lighter than an Arrow dataset of them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from cluster.reporting.evaluation import task_type
from cluster.reporting.report.charts import Values
from cluster.reporting.report.runs import Run
from trajectories.errors import UserError
from trajectories.files import reading
from trajectories.schema import ASSIGNMENTS, EPISODES, SEQUENCES
from trajectories.store import ASSIGNMENTS_FILE, EPISODES_FILE, SEQUENCES_FILE, fitted
from trajectories.types import StopReason

pc: Any = pyarrow.compute
"""Its functions are made as it is imported, which type checkers do not see."""

PART = re.compile(r"part-(\d+)")
DAMAGED = "move that part away, then report again."
INDEX = pa.schema(
    [
        ("id", pa.string()),
        ("group", pa.string()),
        ("part", pa.int64()),
        ("step", pa.int64()),
        ("environment", pa.string()),
        ("task", pa.string()),
        ("type", pa.string()),
        ("outcome", pa.string()),
        ("turns", pa.int32()),
        ("route", pa.string()),
        ("staleness", pa.int64()),
    ]
)
"""One row an episode, in order of training. `step` and what follows from it is null until the metrics tell it."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which episodes are asked for; an empty field asks for all. `step` is `120` or `100-140`."""

    outcome: str = ""
    type: str = ""
    route: str = ""
    step: str = ""
    text: str = ""


def parts(run: Run) -> tuple[Path, ...]:
    """The folders of the parts that are on disk, in order."""
    return tuple(sorted(path for path in (run.folder / "trajectories").glob("part-*") if PART.fullmatch(path.name)))


def read_index(run: Run, folders: Sequence[Path]) -> pa.Table:
    """The `INDEX` of these parts. Raises UserError where one is damaged."""
    of_parts = [_index_of(folder, run.played) for folder in folders]
    return pa.concat_tables([INDEX.empty_table(), *of_parts]).combine_chunks()


def outcomes(success: Any, stop_reason: Any) -> Any:
    """What became of episodes in one word each: solved, else broken, truncated, or failed."""
    truncated = pa.array([str(reason) for reason in StopReason if reason.truncated])
    return pc.case_when(
        pc.make_struct(success, pc.equal(stop_reason, str(StopReason.ERROR)), pc.is_in(stop_reason, truncated)),
        "solved",
        "broken",
        "truncated",
        "failed",
    )


def matching(index: pa.Table, wanted: Filter) -> pa.Table:
    """The rows that fit all of the filter but its text, newest first. Raises UserError for a step that is none."""
    kept = pc.is_valid(index["id"])
    for name in ("outcome", "type", "route"):
        if value := getattr(wanted, name):
            kept = pc.and_(kept, pc.fill_null(pc.equal(index[name], value), False))
    if wanted.step:
        first, last = step_range(wanted.step)
        within = pc.and_(pc.greater_equal(index["step"], first), pc.less_equal(index["step"], last))
        kept = pc.and_(kept, pc.fill_null(within, False))
    rows = np.flatnonzero(kept.to_numpy())
    return index.take(pa.array(rows[::-1]))


def step_range(text: str) -> tuple[int, int]:
    """First and last step of `120` or `100-140`. Raises UserError for anything else."""
    if not (found := re.fullmatch(r"\s*(\d{1,12})\s*(?:-\s*(\d{1,12})\s*)?", text)):
        raise UserError(f"{text!r} is no step: write one, as 120, or a range, as 100-140.")
    return int(found[1]), int(found[2] or found[1])


def sample(index: pa.Table, count: int) -> pa.Table:
    """At most `count` episodes for a page that holds no more: whole groups, half of them the newest, the others spread
    evenly over the run, in order of training. A single group that is larger is cut off."""
    groups = list(dict.fromkeys(index["group"].to_pylist()))
    if index.num_rows <= count or not groups:
        return index
    fitting = max(1, count * len(groups) // index.num_rows)
    newest = groups[len(groups) - (fitting + 1) // 2 :]
    earlier = groups[: len(groups) - len(newest)]
    spread = [earlier[at] for at in np.linspace(0, len(earlier) - 1, fitting // 2).astype(int)]
    kept = index.filter(pc.is_in(index["group"], pa.array([*spread, *newest])))
    return kept.slice(max(0, kept.num_rows - count))


def measured(index: pa.Table, steps: Sequence[int]) -> dict[str, Values]:
    """What the trajectories say of each of these steps: mean and greatest staleness, and the share of every route."""
    if not index.num_rows:
        return {}
    ages = index.group_by("step").aggregate([("staleness", "mean"), ("staleness", "max"), ("id", "count")]).to_pylist()
    by_step = {row["step"]: row for row in ages}
    series: dict[str, Values] = {
        f"staleness/{name}": [by_step[step][f"staleness_{name}"] if step in by_step else None for step in steps]
        for name in ("mean", "max")
    }
    routed = index.group_by(["step", "route"]).aggregate([("id", "count")]).to_pylist()
    for route in sorted({row["route"] for row in routed if row["route"]}):
        counts = {row["step"]: row["id_count"] for row in routed if row["route"] == route}
        shares = (counts.get(step, 0) / by_step[step]["id_count"] if step in by_step else None for step in steps)
        series[f"route/{route}"] = [None if share is None else round(share, 4) for share in shares]
    return series


def read_columns(path: Path, schema: pa.Schema, names: Sequence[str]) -> pa.Table:
    """Some columns of a part's file; without rows where the part has no such file. Raises UserError: it is damaged."""
    wanted = pa.schema([schema.field(name) for name in names])
    if not path.is_file():
        return wanted.empty_table()
    with reading(path, DAMAGED), pq.ParquetFile(path, pre_buffer=False) as file:
        table = file.read(wanted.names, use_threads=False)
    return fitted(table, wanted, path, DAMAGED)


def _index_of(folder: Path, played: Sequence[int]) -> pa.Table:
    """The `INDEX` of one part; its step is unknown where the metrics have not come to it yet."""
    names = ["episode_id", "group_id", "environment", "task_id", "stop_reason", "success", "turns", "version_min"]
    episodes = read_columns(folder / EPISODES_FILE, EPISODES, names)
    number = int(PART.findall(folder.name)[-1])
    step = pa.scalar(played[number] if number < len(played) else None, pa.int64())
    columns = {
        "id": episodes["episode_id"],
        "group": episodes["group_id"],
        "part": pa.repeat(number, len(episodes)),
        "step": pa.repeat(step, len(episodes)),
        "environment": episodes["environment"],
        "task": episodes["task_id"],
        "type": [task_type(task) or "" for task in episodes["task_id"].to_pylist()],
        "outcome": outcomes(episodes["success"], episodes["stop_reason"]),
        "turns": episodes["turns"],
        "route": _routes(folder, episodes["episode_id"].to_pylist()),
        "staleness": pc.subtract(pc.subtract(step, 1), episodes["version_min"]),
    }
    return pa.table(columns, schema=INDEX)


def _routes(folder: Path, episodes: Sequence[str]) -> list[str | None]:
    """The route of each episode's sequences, `several` where they differ, None where nothing was assigned."""
    sequences = read_columns(folder / SEQUENCES_FILE, SEQUENCES, ["sequence_id", "episode_id"])
    assigned = read_columns(folder / ASSIGNMENTS_FILE, ASSIGNMENTS, ["sequence_id", "route"])
    route = dict(zip(*(column.to_pylist() for column in assigned.columns), strict=True))
    found: defaultdict[str, set[str]] = defaultdict(set)
    for sequence, episode in zip(*(column.to_pylist() for column in sequences.columns), strict=True):
        if sequence in route:
            found[episode].add(route[sequence])
    return [min(own) if len(own) == 1 else "several" if own else None for own in map(found.__getitem__, episodes)]
