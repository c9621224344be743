"""The evaluations of a run as tables for people."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.table import Table

from cluster.reporting.evaluation import Evaluation, read_evaluations

Evaluations = Mapping[str, tuple[Evaluation, ...]]
"""Evaluations by name, as `base` or `after_sft`; one a panel."""


def run_evaluations(run_dir: Path) -> Evaluations:
    """The run's evaluations, in the order they were made."""
    files = sorted((run_dir / "evaluations").glob("*.json"), key=lambda file: file.stat().st_mtime)
    return {file.stem: read_evaluations(file) for file in files}


def evaluation_tables(evaluations: Evaluations) -> list[Table]:
    """A table a panel: success with its 95 % Wilson interval, and the mean score where the environment has one."""
    panels = dict.fromkeys((result.panel, result.panel_hash) for results in evaluations.values() for result in results)
    return [_evaluation_table(evaluations, *panel) for panel in panels]


def _evaluation_table(evaluations: Evaluations, panel: str, panel_hash: str) -> Table:
    rows = [
        (name.replace("_", " "), result)
        for name, results in evaluations.items()
        for result in results
        if (result.panel, result.panel_hash) == (panel, panel_hash)
    ]
    scored = any("score" in result.rewards for _, result in rows)
    table = Table(title=f"Evaluation on {panel} (panel {panel_hash[:8]})", title_justify="left")
    for heading in ("weights", "solved", "success [95 % interval]", *(["mean score"] if scored else []), "mean turns"):
        table.add_column(heading)
    for name, result in rows:
        score = [f"{result.rewards.get('score', 0.0):.3f}"] if scored else []
        solved = f"{result.success.wins}/{result.success.tasks}"
        table.add_row(name, solved, str(result.success), *score, f"{result.mean_turns:.1f}")
    return table


def type_table(result: Evaluation) -> Table:
    """Success per task type of one evaluation, and its mean score where the environment has one."""
    sampling = "greedy" if result.temperature == 0 else f"temperature {result.temperature:g}"
    table = Table(title=f"{result.panel}, {sampling}", title_justify="left")
    for heading in ("task type", "solved", "success [95 % interval]"):
        table.add_column(heading)
    for kind, rate in {**result.by_type, "all": result.success}.items():
        table.add_row(kind, f"{rate.wins}/{rate.tasks}", str(rate))
    if "score" in result.rewards:
        table.add_row("mean score", "", f"{result.rewards['score']:.3f}")
    return table
