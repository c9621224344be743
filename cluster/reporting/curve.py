"""The learning curve of a run: success in its rollouts, and of its evaluations, as plain SVG."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from itertools import accumulate, cycle
from pathlib import Path
from typing import Any

from cluster.reporting.evaluation import Evaluation, run_evaluations
from cluster.reporting.metrics import read_metrics

WIDTH, HEIGHT, MARGIN = 720, 300, 44
COLOURS = {"sft": "#8a8a8a", "mixed": "#b07aa1", "grpo": "#4e79a7"}
ROLLING = 10
COLOURS_OF_PANELS = ("#e15759", "#59a14f", "#f28e2b", "#76b7b2")


def is_finished(run_dir: Path) -> bool:
    """Whether a run has ended: the model is the last that it writes, and the learning curve follows it. One that was
    stopped has a curve too, but no model."""
    return all((run_dir / name).exists() for name in ("model", "learning_curve.svg"))


def write_learning_curve(run_dir: Path) -> Path:
    """Draw `RUN/learning_curve.svg` over minutes of training: stages as bands, rollout success (rolling mean) as
    a line, evaluations as points with bars."""
    axis = _Minutes(read_metrics(run_dir))
    marks = [_band(stage, axis) for stage in COLOURS] + [_curve(stage, axis) for stage in COLOURS]
    evaluations = [result for results in run_evaluations(run_dir).values() for result in results]
    panels = list(dict.fromkeys(result.panel for result in evaluations))
    colours = dict(zip(panels, cycle(COLOURS_OF_PANELS), strict=False))
    marks += [mark for result in evaluations for mark in _points(result, axis, colours[result.panel])]
    axes = [
        f'<text x="{MARGIN - 8}" y="{_y(level) + 4:.1f}" text-anchor="end">{level:g}</text>'
        f'<line x1="{MARGIN}" x2="{WIDTH - 8}" y1="{_y(level):.1f}" y2="{_y(level):.1f}" stroke="#ddd"/>'
        for level in (0, 0.25, 0.5, 0.75, 1)
    ]
    axes.append(f'<text x="{WIDTH - 8}" y="{HEIGHT - 8}" text-anchor="end">{axis.last:.1f} minutes</text>')
    title = "success: rollouts (line), evaluations with 95 % interval (points; hollow: sampled)"
    axes.append(f'<text x="{MARGIN}" y="16">{title}</text>')
    axes += [
        f'<text x="{WIDTH - 8}" y="{16 + 14 * at}" text-anchor="end" fill="{colours[panel]}">{escape(panel)}</text>'
        for at, panel in enumerate(panels)
    ]
    path = run_dir / "learning_curve.svg"
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="white"/>{"".join(axes + marks)}</svg>\n',
        encoding="utf-8",
    )
    return path


class _Minutes:
    """When a step ended, in minutes spent in steps and in routing before them: neither evaluations nor pauses before a
    resume count."""

    def __init__(self, records: Sequence[dict[str, Any]]) -> None:
        self.records = records
        minutes = accumulate(record.get("step_s", record.get("routing_s", 0.0)) / 60 for record in records)
        self._ends = {record["step"]: end for record, end in zip(records, minutes, strict=True)}
        self.last = max(self._ends.values(), default=0.0) or 1.0

    def x(self, step: int) -> float:
        """Where the end of a step stands in the picture; 0 is the start."""
        return MARGIN + (WIDTH - MARGIN - 8) * self._ends.get(step, 0.0) / self.last

    def played(self, stage: str) -> list[dict[str, Any]]:
        """Records of the steps of a stage that had rollouts."""
        return [record for record in self.records if record["stage"] == stage and "success" in record]


def _y(success: float) -> float:
    return HEIGHT - 28 - (HEIGHT - 60) * success


def _band(stage: str, axis: _Minutes) -> str:
    """A tinted band over a stage's steps, with its name; a stage that ran twice is one band."""
    steps = [record["step"] for record in axis.records if record["stage"] == stage]
    if not steps:
        return ""
    left, right = axis.x(steps[0] - 1), axis.x(steps[-1])
    return (
        f'<rect x="{left:.1f}" y="{_y(1):.1f}" width="{right - left:.1f}" height="{_y(0) - _y(1):.1f}" '
        f'fill="{COLOURS[stage]}" opacity="0.08"/>'
        f'<text x="{left + 4:.1f}" y="{_y(0) + 16:.1f}" fill="{COLOURS[stage]}">{stage}</text>'
    )


def _curve(stage: str, axis: _Minutes) -> str:
    played = axis.played(stage)
    points = []
    for index, record in enumerate(played):
        recent = [earlier["success"] for earlier in played[max(0, index - ROLLING + 1) : index + 1]]
        points.append(f"{axis.x(record['step']):.1f},{_y(sum(recent) / len(recent)):.1f}")
    return f'<polyline points="{" ".join(points)}" fill="none" stroke="{COLOURS[stage]}" stroke-width="2"/>'


def _points(result: Evaluation, axis: _Minutes, colour: str) -> Iterator[str]:
    """Greedy success filled, sampled success hollow, which is what the line of the rollouts compares with."""
    for play, outcome in result.outcomes.items():
        x, rate, fill = axis.x(result.version or 0), outcome.success, colour if play == "greedy" else "white"
        yield (
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_y(rate.low):.1f}" y2="{_y(rate.high):.1f}" stroke="{colour}"/>'
            f'<circle cx="{x:.1f}" cy="{_y(rate.rate):.1f}" r="4" fill="{fill}" stroke="{colour}"/>'
        )
