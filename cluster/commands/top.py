"""`concerto top`: a run at a glance in the terminal, anew every two seconds while it is under way."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cluster.reporting.evaluation import Evaluations
from cluster.reporting.report.charts import phases
from cluster.reporting.report.overview import faults
from cluster.reporting.report.runs import Run, read_runs
from trajectories.store import TrajectoryStore

EVERY_S = 2.0
LATEST = 10
"""Steps that are averaged."""
DRAWN = 30
BARS = "▁▂▃▄▅▆▇█"
SHOWN = {
    "success": "success",
    "sft/loss": "SFT loss",
    "turns": "turns of an episode",
    "informative_groups": "informative groups",
    "grpo/entropy": "entropy, nats a token",
    "staleness": "staleness, versions",
    "parity_error": "parity error, nats",
    "trained_tokens": "trained tokens",
    "step_s": "seconds a step",
}
"""Metrics and what they are called; those that the present stage logs."""


def show_top(folder: Path, console: Console) -> None:
    """Show a run until it is finished; once, where the output is no terminal. Raises UserError where there is none."""
    (run,) = read_runs([folder])
    if not console.is_terminal:
        console.print(picture(run, time.time()))
        return
    with Live(picture(run, time.time()), console=console, auto_refresh=False) as live:
        while not run.finished:
            time.sleep(EVERY_S)
            (run,) = read_runs([folder])
            live.update(picture(run, time.time()), refresh=True)


def picture(run: Run, now: float) -> Group:
    """What there is to see of a run at a time, in seconds since 1970."""
    steps = [record for record in run.records if record["step"]]
    if not steps:
        return Group(f"{run.name}: no step is done yet.")
    stage = [record for record in steps if record["stage"] == steps[-1]["stage"]]
    lines = [*_evaluated(run.evaluations), *faults(run)]
    return Group(_where(run, stage, now), _numbers(stage), _seconds(stage), *map(Text, lines), *_last_episode(run))


def sparkline(values: Sequence[float]) -> str:
    """A bar a value, from the least to the greatest.

    >>> sparkline([0.0, 0.5, 1.0]), sparkline([2.0, 2.0])
    ('▁▅█', '▁▁')
    """
    low, high = min(values), max(values)
    if high == low:
        return BARS[0] * len(values)
    return "".join(BARS[round((value - low) / (high - low) * (len(BARS) - 1))] for value in values)


def _where(run: Run, stage: Sequence[Mapping[str, Any]], now: float) -> Text:
    last = stage[-1]
    planned = run.config.get("schedule", {}).get(f"{last['stage']}_steps")
    of = f" of {planned}" if planned else ""
    ago = "finished" if run.finished else f"{max(0.0, now - last['time']):.0f} s ago"
    rate = _mean(stage, "step_s")
    left = ""
    if planned and rate and not run.finished:
        left = f", {(planned - len(stage)) * rate / 60:.0f} min to the end of the stage"
    return Text(
        f"{run.name}: {last['stage']}, step {len(stage)}{of} ({last['step']} in all), {ago}{left}", style="bold"
    )


def _numbers(stage: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("", "now", f"last {LATEST}", ""):
        table.add_column(heading, justify="right" if heading else "left")
    for name, title in SHOWN.items():
        values = [float(record[name]) for record in stage if _is_number(record.get(name))]
        if values:
            line = sparkline(values[-DRAWN:])
            table.add_row(title, f"{values[-1]:.4g}", f"{_average(values[-LATEST:]):.4g}", line)
    return table


def _seconds(stage: Sequence[Mapping[str, Any]]) -> Text:
    """Where the latest steps' time went, and episodes a minute."""
    latest = stage[-LATEST:]
    spent: dict[str, float] = {}
    for record in latest:
        for phase, seconds in phases(record).items():
            spent[phase] = spent.get(phase, 0.0) + seconds
    whole = sum(spent.values())
    parts = [f"{phase} {seconds / whole:.0%}" for phase, seconds in spent.items() if whole and seconds / whole >= 0.01]
    episodes = sum(record.get("episodes", 0) for record in latest)
    if episodes and whole:
        parts.append(f"{60 * episodes / whole:.0f} episodes a minute")
    return Text("time: " + ", ".join(parts))


def _evaluated(evaluations: Evaluations) -> Iterator[str]:
    if not evaluations:
        return
    name = list(evaluations)[-1]
    for one in evaluations[name]:
        yield f"{name} on {one.panel}: " + "; ".join(
            f"{way} {found.success.wins} of {found.success.episodes} ({found.success})"
            for way, found in one.outcomes.items()
        )


def _last_episode(run: Run) -> Iterator[Text]:
    folder = run.folder / "trajectories"
    store = TrajectoryStore(folder) if folder.is_dir() else ()
    if not len(store):
        return
    episodes: pa.Table = store.read(len(store) - 1)[0]  # type: ignore[union-attr]
    row = episodes.slice(episodes.num_rows - 1).to_pylist()[0]
    end = "solved" if row["success"] else "not solved"
    yield Text(
        f"last episode: {row['environment']}, {row['task_id']}: {end} in {row['turns']} turns, {row['stop_reason']}"
    )


def _mean(stage: Sequence[Mapping[str, Any]], name: str) -> float:
    values = [record[name] for record in stage[-LATEST:] if _is_number(record.get(name))]
    return _average(values) if values else 0.0


def _average(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
