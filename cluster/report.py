"""What a run achieved, for people: a table of its evaluations and a picture of its learning curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from rich.table import Table

from cluster.evaluate import Evaluation, read_evaluations
from cluster.metrics import read_metrics

WIDTH, HEIGHT, MARGIN = 720, 300, 44
COLOURS = {"sft": "#8a8a8a", "mixed": "#b07aa1", "grpo": "#4e79a7"}
ROLLING = 10


COLOURS_OF_PANELS = ("#e15759", "#59a14f", "#f28e2b", "#76b7b2")

Evaluations = Mapping[str, tuple[Evaluation, ...]]
"""By name, as `base` or `after_sft`; one a panel."""


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


def write_learning_curve(run_dir: Path) -> Path:
    """Draw `RUN/learning_curve.svg`: rollout success (rolling mean), and evaluations as points with bars."""
    records = read_metrics(run_dir)
    last = max((record["step"] for record in records), default=1)
    marks = [_curve(stage, records, last) for stage in COLOURS]
    evaluations = [result for results in run_evaluations(run_dir).values() for result in results]
    panels = list(dict.fromkeys(result.panel for result in evaluations))
    colours = dict(zip(panels, cycle(COLOURS_OF_PANELS), strict=False))
    marks += [_point(result, last, colours[result.panel]) for result in evaluations]
    axes = [
        f'<text x="{MARGIN - 8}" y="{_y(level) + 4:.1f}" text-anchor="end">{level:g}</text>'
        f'<line x1="{MARGIN}" x2="{WIDTH - 8}" y1="{_y(level):.1f}" y2="{_y(level):.1f}" stroke="#ddd"/>'
        for level in (0, 0.25, 0.5, 0.75, 1)
    ]
    axes.append(f'<text x="{WIDTH - 8}" y="{HEIGHT - 8}" text-anchor="end">learner step {last}</text>')
    axes.append(f'<text x="{MARGIN}" y="16">success: rollouts (line), evaluations with 95 % interval (points)</text>')
    axes += [
        f'<text x="{WIDTH - 8}" y="{16 + 14 * at}" text-anchor="end" fill="{colours[panel]}">{panel}</text>'
        for at, panel in enumerate(panels)
    ]
    path = run_dir / "learning_curve.svg"
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="white"/>{"".join(axes + marks)}</svg>\n',
        encoding="utf-8",
    )
    return path


def _x(step: float, last: int) -> float:
    return MARGIN + (WIDTH - MARGIN - 8) * step / last


def _y(success: float) -> float:
    return HEIGHT - 28 - (HEIGHT - 60) * success


def _curve(stage: str, records: Sequence[dict[str, Any]], last: int) -> str:
    played = [record for record in records if record["stage"] == stage and "success" in record]
    points = []
    for index, record in enumerate(played):
        recent = [earlier["success"] for earlier in played[max(0, index - ROLLING + 1) : index + 1]]
        points.append(f"{_x(record['step'], last):.1f},{_y(sum(recent) / len(recent)):.1f}")
    return f'<polyline points="{" ".join(points)}" fill="none" stroke="{COLOURS[stage]}" stroke-width="2"/>'


def _point(result: Evaluation, last: int, colour: str) -> str:
    x, rate = _x(result.version or 0, last), result.success
    return (
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_y(rate.low):.1f}" y2="{_y(rate.high):.1f}" stroke="{colour}"/>'
        f'<circle cx="{x:.1f}" cy="{_y(rate.rate):.1f}" r="4" fill="{colour}"/>'
    )
