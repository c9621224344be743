"""Two pictures of a comparison, as plain SVG: success of each arm, and where its seconds went."""

from __future__ import annotations

import math
from pathlib import Path

from cluster.reporting.summary import PHASES, ArmSummary, Comparison

WIDTH, ROW, LEFT, TOP = 720, 26, 170, 34
COLOURS = {"probe": "#f28e2b", "sft": "#8a8a8a", "rl": "#4e79a7", "evaluation": "#d7d7d7"}


def write_charts(comparison: Comparison, folder: Path) -> None:
    """`success.svg` and `seconds.svg`, of the first panel."""
    arms = [arm for arm in comparison.arms if arm.panel == comparison.arms[0].panel]
    runs = {
        arm.arm: [comparison.runs[f"{arm.arm}-{seed}"].success[arm.panel].rate for seed in comparison.seeds]
        for arm in arms
    }
    (folder / "success.svg").write_text(_success(arms, runs), encoding="utf-8")
    (folder / "seconds.svg").write_text(_seconds(arms), encoding="utf-8")


def _success(arms: list[ArmSummary], runs: dict[str, list[float]]) -> str:
    top = max([0.1, *(arm.most for arm in arms), *(arm.pooled.high for arm in arms)])

    def x(rate: float) -> float:
        return LEFT + (WIDTH - LEFT - 16) * min(max(rate, 0.0), top) / top

    marks = [
        f'<text x="{x(level):.1f}" y="{TOP - 6}" text-anchor="middle">{level:.2f}</text>'
        f'<line x1="{x(level):.1f}" x2="{x(level):.1f}" y1="{TOP}" y2="{TOP + ROW * len(arms)}" stroke="#ddd"/>'
        for level in (step * top / 4 for step in range(5))
    ]
    for row, arm in enumerate(arms):
        y = TOP + ROW * (row + 0.5)
        marks.append(_label(arm.arm, y))
        low, high = (arm.pooled.low, arm.pooled.high) if math.isnan(arm.low) else (arm.low, arm.high)
        marks.append(
            f'<line x1="{x(low):.1f}" x2="{x(high):.1f}" y1="{y}" y2="{y}" stroke="#e15759" stroke-width="2"/>'
        )
        marks += [f'<circle cx="{x(rate):.1f}" cy="{y}" r="3" fill="#4e79a7"/>' for rate in runs[arm.arm]]
        marks.append(f'<circle cx="{x(arm.mean):.1f}" cy="{y}" r="5" fill="#e15759"/>')
    return _svg("success: seeds (blue), mean and 95 % interval (red)", marks, len(arms))


def _seconds(arms: list[ArmSummary]) -> str:
    longest = max(sum(arm.seconds.values()) for arm in arms) or 1.0
    marks = []
    for row, arm in enumerate(arms):
        y, start = TOP + ROW * row + 4, float(LEFT)
        marks.append(_label(arm.arm, y + ROW / 2 - 4))
        for phase in PHASES:
            width = (WIDTH - LEFT - 80) * arm.seconds[phase] / longest
            marks.append(
                f'<rect x="{start:.1f}" y="{y}" width="{width:.1f}" height="{ROW - 8}" fill="{COLOURS[phase]}"/>'
            )
            start += width
        marks.append(f'<text x="{start + 6:.1f}" y="{y + ROW / 2}">{sum(arm.seconds.values()):.0f} s</text>')
    title = "seconds: probe (orange), SFT (grey), RL (blue), evaluation (light)"
    return _svg(title, marks, len(arms))


def _label(text: str, y: float) -> str:
    return f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'


def _svg(title: str, marks: list[str], rows: int) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {TOP + ROW * rows + 12}" '
        f'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
        f'<text x="8" y="14">{title}</text>{"".join(marks)}</svg>\n'
    )
