"""What a recipe has come to: our values beside the published ones, as a page and as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.config.recipe import STREAM, Measure, Recipe
from cluster.reporting.estimators import Frozen, Rate, t_interval
from cluster.reporting.evaluation import Evaluation, Outcome, run_evaluations
from cluster.reporting.summary import Comparison

NOT_FOUND, NOT_RUN, NO_ROW = "not found", "not run", "no such row"
DIGITS = {"success": 1, "score": 1, "speedup": 2, "tokens": 0}
"""Behind the point, by metric."""


class Measured(Frozen):
    """A value of ours, in the measure's unit.

    Attributes:
        low, high: its 95 % interval, by Student's t over seeds; of one seed, where it is a rate, Wilson's over tasks.
        seeds: runs that it is the mean of.
    """

    value: float
    low: float | None = None
    high: float | None = None
    seeds: int = 1

    def shown(self, digits: int) -> str:
        """The value, and its interval where it has one."""
        value = f"{self.value:,.{digits}f}"
        if self.low is None or self.high is None:
            return value
        return f"{value} [{self.low:,.{digits}f}, {self.high:,.{digits}f}]"


class ReproducedRow(Frozen):
    """One arm, or a row of the paper that nobody runs.

    Attributes:
        published_as: its name in the paper; None where the paper has no such row.
        published, ours: by measure, as far as there are values.
    """

    arm: str
    run: bool
    published_as: str | None
    published: dict[str, float]
    ours: dict[str, Measured]


class Reproduced(Frozen):
    """What `concerto reproduce` writes as `reproduced.json`.

    Attributes:
        model: what ours starts from, or asks.
    """

    title: str
    paper: str
    size: str
    conditions: str
    differs: str
    model: str
    seeds: tuple[int, ...]
    measures: dict[str, Measure]
    rows: tuple[ReproducedRow, ...]


Values = Mapping[str, Mapping[str, Measured]]
"""Ours, by arm and measure."""


def measured_runs(comparison: Comparison, runs: Path, measures: Mapping[str, Measure]) -> Values:
    """The values of trained arms, from the comparison and from the last evaluation of each run in the folder `runs`."""
    values: dict[str, dict[str, Measured]] = {}
    for arm in dict.fromkeys(summary.arm for summary in comparison.arms):
        played = [_last(runs / f"{arm}-{seed}") for seed in comparison.seeds]
        speedup = next(summary.speedup for summary in comparison.arms if summary.arm == arm)
        values[arm] = {
            name: value for name, measure in measures.items() if (value := _measured(measure, played, speedup))
        }
    return values


def measured_streams(summaries: Mapping[str, Mapping[str, Any]], measures: Mapping[str, Measure]) -> Values:
    """The values of the arms of a stream of questions, from their summaries."""
    played = {name: measure for name, measure in measures.items() if measure.panel == STREAM}
    return {arm: {name: _of_stream(one, summary) for name, one in played.items()} for arm, summary in summaries.items()}


def reproduced(recipe: Recipe, size: str, model: str, seeds: Sequence[int], values: Values) -> Reproduced:
    """All rows: the arms in the order of `values`, then what the paper alone has."""
    alone = [arm for arm in recipe.published if arm not in values]
    rows = []
    for arm in (*values, *alone):
        name, published = None, {}
        if row := recipe.published.get(arm):
            name, published = row.name, row.values
        ours = dict(values.get(arm, {}))
        rows.append(ReproducedRow(arm=arm, run=arm in values, published_as=name, published=published, ours=ours))
    return Reproduced(
        title=recipe.title,
        paper=recipe.paper,
        size=size,
        conditions=recipe.conditions,
        differs=recipe.at(size).differs,
        model=model,
        seeds=tuple(seeds),
        measures=recipe.measures,
        rows=tuple(rows),
    )


def page(result: Reproduced) -> str:
    """The table as Markdown, with what must be known to read it."""
    columns = [column for name in result.measures for column in _columns(result, name)]
    seeds = f"seeds {', '.join(map(str, result.seeds))}" if result.seeds else "one pass"
    return "\n".join(
        [
            f"# {result.title}, size {result.size}",
            "",
            f"Published: {result.paper}. Ours: {result.model}, {seeds}.",
            "",
            "| " + " | ".join(("arm", "in the paper", *(heading for heading, _ in columns))) + " |",
            "|" + "---|" * (2 + len(columns)),
            *("| " + " | ".join(_cells(row, position, columns)) + " |" for position, row in enumerate(result.rows)),
            "",
            "Ours: greedy play of the last weights, or the answers of one pass. In brackets: 95 % intervals, "
            "by Student's t over seeds; of one seed or pass, Wilson's over tasks.",
            "",
            f"**What differs.** {result.differs}",
            "",
            f"**The published numbers.** {result.conditions}",
            "",
        ]
    )


def _columns(result: Reproduced, name: str) -> list[tuple[str, list[str]]]:
    """(heading, a cell for each row): what is published of a measure, and what is ours, where there is any."""
    measure, rows = result.measures[name], result.rows
    digits = DIGITS[measure.metric]
    columns = []
    if any(name in row.published for row in rows):
        cells = [_published(row, name, digits) for row in rows]
        columns.append((f"{measure.title}: published ({measure.source})", cells))
    if any(name in row.ours for row in rows):
        cells = [row.ours[name].shown(digits) if name in row.ours else "" if row.run else NOT_RUN for row in rows]
        columns.append((f"{measure.title}: ours", cells))
    return columns


def _published(row: ReproducedRow, name: str, digits: int) -> str:
    if name not in row.published:
        return NOT_FOUND if row.published_as else ""
    value = row.published[name]
    return f"{value:,}" if digits else f"{value:,.0f}"  # with all digits that are printed


def _cells(row: ReproducedRow, position: int, columns: Sequence[tuple[str, list[str]]]) -> list[str]:
    return [row.arm, row.published_as or NO_ROW, *(cells[position] for _, cells in columns)]


def _last(run_dir: Path) -> Mapping[str, Evaluation]:
    """The last evaluation of a run, by panel."""
    return {result.panel: result for result in list(run_evaluations(run_dir).values())[-1]}


def _measured(measure: Measure, played: Sequence[Mapping[str, Evaluation]], speedup: float | None) -> Measured | None:
    """None where this was not measured."""
    if measure.metric == "speedup":
        return None if speedup is None else Measured(value=speedup, seeds=len(played))
    if measure.panel is None or any(measure.panel not in evaluations for evaluations in played):
        return None
    outcomes = [evaluations[measure.panel].greedy for evaluations in played]
    values = [value for outcome in outcomes if (value := _percent(measure, outcome)) is not None]
    if len(values) < len(played):
        return None
    if len(values) == 1:
        rate = _rate(measure, outcomes[0])
        return _of_rate(rate) if rate else Measured(value=values[0])
    low, high = t_interval(values)
    return Measured(value=statistics.fmean(values), low=low, high=high, seeds=len(values))


def _percent(measure: Measure, outcome: Outcome) -> float | None:
    if measure.metric == "score":
        return 100 * outcome.rewards["score"] if "score" in outcome.rewards else None
    rate = _rate(measure, outcome)
    return None if rate is None else 100 * rate.rate


def _rate(measure: Measure, outcome: Outcome) -> Rate | None:
    """Success, of the measure's kind where it has one; None where it is no rate, or no such task was played."""
    if measure.metric != "success":
        return None
    return outcome.success if measure.kind is None else outcome.by_type.get(measure.kind)


def _of_rate(rate: Rate) -> Measured:
    return Measured(value=100 * rate.rate, low=100 * rate.low, high=100 * rate.high)


def _of_stream(measure: Measure, summary: Mapping[str, Any]) -> Measured:
    if measure.metric == "success":
        return _of_rate(Rate.model_validate(summary["success"]))
    spent = sum(counts["prompt_tokens"] + counts["completion_tokens"] for counts in summary["tokens"].values())
    return Measured(value=spent / summary["questions"])
