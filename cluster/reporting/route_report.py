"""The page of `concerto route --report`: what the scores look like, and what they go along with. One file of HTML with
plain SVG in it, which needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from router.analysis import Column, spearman
from router.network import PROJECTIONS
from trajectories.errors import UserError
from trajectories.types import Route

BINS, CELL, LEFT = 24, 58, 90
COLOURS = {Route.SFT: "#8a8a8a", Route.GRPO: "#4e79a7"}
WORDS = {Route.SFT: "SFT (imitated)", Route.GRPO: "GRPO (explored)"}


@dataclass(frozen=True, slots=True)
class Against:
    """The same corpus, scored by another model and split by the same policy: its name and its routes."""

    name: str
    routes: pa.Table


def route_report(measured: pa.Table, routes: pa.Table, turns: Column | None, against: Against | None) -> str:
    """The page.

    Args:
        measured: `tables.MEASURED`, in the order of `routes`, a `tables.ROUTES`.
        turns: of each trajectory, where somebody counted them.
    Raises:
        UserError: the policy scores nothing, or fewer than three trajectories are common to both models.
    """
    score = _scores(routes)
    norms = np.stack(measured["norms"].to_numpy())
    shares = norms / norms.sum(1, keepdims=True)
    halves = {half: np.array([route == half for route in routes["route"].to_pylist()]) for half in COLOURS}
    columns: dict[str, Column] = {
        name: dict(zip(measured["trajectory"].to_pylist(), measured[column].to_pylist(), strict=True))
        for name, column in (("tokens", "tokens"), ("trained tokens", "trained_tokens"), ("loss", "loss"))
    }
    columns |= {"turns": turns} if turns is not None else {}
    parts = [
        _section("Scores", _histogram(list(score.values()), halves, _thresholds(routes))),
        *(
            _section(f"Mean share of the gradient norm: {WORDS[half]}", _heat_map(shares[rows].mean(0)))
            for half, rows in halves.items()
            if rows.any()
        ),
        _section(
            "What the score goes along with (Spearman's rank correlation)",
            _table({name: f"{spearman(score, column):+.2f}" for name, column in columns.items()}),
        ),
    ]
    if against is not None:
        title = f"Stability: the same policy by {against.name}"
        parts.append(_section(title, _table(_stability(score, routes, against))))
    counts = ", ".join(f"{int(rows.sum())} to {WORDS[half]}" for half, rows in halves.items())
    return (
        '<!doctype html><meta charset="utf-8"><title>Routes</title>'
        "<style>body{font-family:sans-serif;max-width:960px;margin:2em auto}td{padding:2px 12px 2px 0}</style>"
        f"<h1>Routes of {len(score)} trajectories</h1><p>{counts}</p>{''.join(parts)}\n"
    )


def _scores(routes: pa.Table) -> Column:
    found = dict(zip(routes["trajectory"].to_pylist(), routes["score"].to_pylist(), strict=True))
    if None in found.values():
        raise UserError("--report shows scores, and this --policy compares nothing: leave --report out.")
    return found


def _thresholds(routes: pa.Table) -> list[float]:
    return sorted({value for value in routes["threshold"].to_pylist() if value is not None})


def _stability(score: Column, routes: pa.Table, against: Against) -> Mapping[str, str]:
    mine, theirs = (
        dict(zip(table["trajectory"].to_pylist(), table["route"].to_pylist(), strict=True))
        for table in (routes, against.routes)
    )
    common = sorted(set(mine) & set(theirs))
    correlation = spearman(score, _scores(against.routes))
    same = sum(mine[name] == theirs[name] for name in common) / len(common)
    return {
        "trajectories in common": str(len(common)),
        "rank correlation": f"{correlation:+.2f}",
        "sent the same way": f"{same:.0%}",
    }


def _histogram(
    scores: Sequence[float], halves: Mapping[Route, npt.NDArray[np.bool_]], thresholds: Sequence[float]
) -> str:
    """Both halves over one axis, a dashed line at each threshold."""
    values = np.array(scores)
    edges = np.linspace(values.min(), max(values.max(), values.min() + 1e-9), BINS + 1)
    counts = {half: np.histogram(values[rows], edges)[0] for half, rows in halves.items()}
    tallest, width, height = max(int(np.sum(list(counts.values()), axis=0).max()), 1), 640, 160
    marks = []
    for number in range(BINS):
        base = float(height)
        for half, found in counts.items():
            tall = found[number] / tallest * (height - 10)
            base -= tall
            marks.append(
                f'<rect x="{number * width / BINS:.1f}" y="{base:.1f}" width="{width / BINS - 1:.1f}" '
                f'height="{tall:.1f}" fill="{COLOURS[half]}"/>'
            )
    for threshold in thresholds:
        x = (threshold - edges[0]) / (edges[-1] - edges[0]) * width
        marks.append(f'<path d="M{x:.1f} 0V{height}" stroke="#e15759" stroke-dasharray="4"/>')
    marks.append(f'<text x="0" y="{height + 14}">{edges[0]:.3f}</text>')
    marks.append(f'<text x="{width}" y="{height + 14}" text-anchor="end">{edges[-1]:.3f}</text>')
    legend = "grey: SFT, blue: GRPO, red: thresholds"
    return _svg(width, height + 20, marks) + f"<p>{legend}</p>"


def _heat_map(share: npt.NDArray[np.float64]) -> str:
    """[7L] as layers (down) by projections (across), each cell with its percentage."""
    grid = share.reshape(-1, len(PROJECTIONS))
    marks = [
        f'<text x="{LEFT + CELL * (column + 0.5)}" y="12" text-anchor="middle">{name.rpartition(".")[2][:-5]}</text>'
        for column, name in enumerate(PROJECTIONS)
    ]
    for layer, row in enumerate(grid):
        y = 18 + 22 * layer
        marks.append(f'<text x="{LEFT - 8}" y="{y + 15}" text-anchor="end">layer {layer}</text>')
        for column, value in enumerate(row):
            x, dark = LEFT + CELL * column, value / grid.max()
            marks.append(
                f'<rect x="{x}" y="{y}" width="{CELL - 1}" height="21" fill="#4e79a7" fill-opacity="{dark:.3f}"/>'
                f'<text x="{x + CELL / 2}" y="{y + 15}" text-anchor="middle">{value:.1%}</text>'
            )
    return _svg(LEFT + CELL * len(PROJECTIONS), 18 + 22 * len(grid), marks)


def _table(rows: Mapping[str, str]) -> str:
    return f"<table>{''.join(f'<tr><td>{escape(k)}</td><td>{escape(v)}</td></tr>' for k, v in rows.items())}</table>"


def _section(title: str, body: str) -> str:
    return f"<h2>{escape(title)}</h2>{body}"


def _svg(width: int, height: int, marks: Sequence[str]) -> str:
    return f'<svg width="{width}" height="{height}" font-family="sans-serif" font-size="12">{"".join(marks)}</svg>'
