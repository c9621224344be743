"""All that the page shows of runs but their episodes, as plain values for JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from rich.table import Table

from cluster.reporting.evaluation_tables import evaluation_tables, paired_table, type_tables
from cluster.reporting.lessons import lessons
from cluster.reporting.paired import paired
from cluster.reporting.report.charts import finite, phases, run_charts, stages
from cluster.reporting.report.index import measured
from cluster.reporting.report.runs import Run


@dataclass(frozen=True, slots=True)
class Indexed:
    """A run with the index of its episodes.

    Attributes:
        wordless: no tokenizer was found, so that its tokens are shown as numbers.
    """

    run: Run
    index: pa.Table
    wordless: bool


def overview(runs: Sequence[Indexed]) -> dict[str, Any]:
    """The runs one by one, and what tells them apart: `{runs, differences, between}`."""
    configs = {one.run.name: dict(flat(one.run.config)) for one in runs}
    return {
        "runs": [_run(one) | {"config": configs[one.run.name]} for one in runs],
        "differences": differences(configs),
        "between": [as_data(table) for table in between([one.run for one in runs])],
    }


def flat(config: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Settings by their dotted names, values as YAML would be typed.

    >>> dict(flat({"learner": {"lr": 0.1, "betas": [0.9, None]}, "data": {}}))
    {'learner.lr': '0.1', 'learner.betas': '[0.9, null]', 'data': '{}'}
    """
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value if isinstance(value, str) else json.dumps(value, default=str)


def differences(configs: Mapping[str, Mapping[str, str]]) -> list[dict[str, Any]]:
    """The settings that are not the same in all runs: `{name, values}`, a value a run, null where it has none."""
    names = dict.fromkeys(name for config in configs.values() for name in config)
    rows = [{"name": name, "values": [config.get(name) for config in configs.values()]} for name in names]
    return [row for row in rows if len(set(row["values"])) > 1]


def between(runs: Sequence[Run]) -> list[Table]:
    """The last evaluation of every other run against that of the first, task by task, where they played the same."""
    last = {run.name: list(run.evaluations.values())[-1] for run in runs if run.evaluations}
    if len(last) < 2:
        return []
    (first, before), *others = last.items()
    pairs = [
        paired(name, now, first, then)
        for name, results in others
        for now in results
        for then in before
        if now.panel_key == then.panel_key
    ]
    return [paired_table(pairs, f"The same tasks by the last weights of {first}")] if pairs else []


def as_data(table: Table) -> dict[str, Any]:
    """A table for people as `{title, columns, rows}` of texts."""
    cells = [[str(cell) for cell in column.cells] for column in table.columns]
    return {
        "title": str(table.title),
        "columns": [str(column.header) for column in table.columns],
        "rows": [list(row) for row in zip(*cells, strict=True)],
    }


def faults(run: Run) -> list[str]:
    """What went wrong in a run, a sentence each; nothing where nothing did."""
    found = []
    if not run.finished:
        last = run.records[-1]["step"] if run.records else 0
        found.append(f"The run is not finished: its last step so far is {last}.")
    if broken := {record["step"]: n for record in run.records if (n := int(record.get("failed_episodes") or 0))}:
        found.append(f"{sum(broken.values())} episodes broke for good, in {_steps(broken)}.")
    if filtered := max((int(record.get("groups_filtered") or 0) for record in run.records), default=0):
        found.append(f"{filtered} groups were given back: too many of their episodes broke, or they were too old.")
    if idle := [record["step"] for record in run.records if record.get("trained_tokens") == 0]:
        found.append(f"Nothing was trained in {_steps(idle)}.")
    if odd := [record["step"] for record in run.records if record["step"] and _not_finite(record)]:
        found.append(f"A number was not finite in {_steps(odd)}.")
    evaluated = [result for results in run.evaluations.values() for result in results]
    if failed := sum(outcome.failed for result in evaluated for outcome in result.outcomes.values()):
        found.append(f"{failed} episodes of evaluations broke; they count as not solved.")
    return found


def _run(one: Indexed) -> dict[str, Any]:
    run, index = one.run, one.index
    steps = [record["step"] for record in run.records]
    seconds: dict[str, float] = {"routing": 0.0}
    for record in run.records:
        for phase, spent in {**phases(record), "routing": float(record.get("routing_s", 0.0))}.items():
            seconds[phase] = seconds.get(phase, 0.0) + spent
    seconds["evaluation"] = sum(result.seconds for results in run.evaluations.values() for result in results)
    return {
        "name": run.name,
        "finished": run.finished,
        "wordless": one.wordless,
        "steps": steps,
        "stages": stages(run.records),
        "charts": run_charts(run.records, measured(index, steps)),
        "points": list(_points(run)),
        "tables": [as_data(table) for table in evaluation_tables(run.evaluations)],
        "types": [
            {
                "name": name.replace("_", " "),
                "tables": [as_data(table) for one in results for table in type_tables(one)],
            }
            for name, results in run.evaluations.items()
        ],
        "lessons": list(lessons(run.records)),
        "seconds": {phase: round(total, 1) for phase, total in seconds.items() if total >= 0.05},
        "faults": faults(run),
        "episodes": index.num_rows,
        "choices": {name: _choices(index[name]) for name in ("outcome", "type", "route")},
    }


def _points(run: Run) -> Iterator[dict[str, Any]]:
    """Each evaluation's success with its interval, at the step whose weights it played."""
    for name, results in run.evaluations.items():
        for result in results:
            for way, outcome in result.outcomes.items():
                rate = outcome.success
                values = {bound: finite(getattr(rate, bound)) for bound in ("rate", "low", "high")}
                yield {"step": result.version or 0, "name": name, "panel": result.panel, "way": way, **values}


def _choices(column: pa.ChunkedArray) -> list[str]:
    return sorted(value for value in column.unique().to_pylist() if value)


def _steps(steps: Sequence[int] | Mapping[int, int]) -> str:
    """`step 3`, or `5 steps, the first of them 3`."""
    first = next(iter(steps))
    return f"step {first}" if len(steps) == 1 else f"{len(steps)} steps, the first of them {first}"


def _not_finite(record: Mapping[str, Any]) -> bool:
    return any(isinstance(value, float) and finite(value) is None for value in record.values())
