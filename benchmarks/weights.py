"""Draws how the weights of reward channels move in the runs of a comparison: one panel an arm, one line a seed and
channel. Arms whose weights stay as they are get no panel.

    python -m benchmarks.weights runs/maestro-local --out docs/results/maestro-weights.svg

Prints each arm's weights of the last step, lowest and highest over seeds.
"""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from pathlib import Path

import numpy as np

from cluster.reporting.metrics import read_metrics

WEIGHT = re.compile(r"reward/(.+)/weight")
COLOURS = ("#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#8a8a8a")
WIDTH, HEIGHT, LEFT, GAP = 720, 120, 40, 34


def curves(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """Arm → channel → weights [seeds, steps], of runs that are named `<arm>-<seed>`."""
    found: defaultdict[str, defaultdict[str, list[list[float]]]] = defaultdict(lambda: defaultdict(list))
    for run in sorted(path for path in (folder / "runs").iterdir() if path.is_dir()):
        by_channel: defaultdict[str, list[float]] = defaultdict(list)
        for record in read_metrics(run):
            for name, value in record.items():
                if match := WEIGHT.fullmatch(name):
                    by_channel[match[1]].append(value)
        for channel, weights in by_channel.items():
            found[run.name.rpartition("-")[0]][channel].append(weights)
    return {arm: {name: _even(rows) for name, rows in channels.items()} for arm, channels in found.items()}


def _even(rows: list[list[float]]) -> np.ndarray:
    """[seeds, steps], as far as all seeds have come."""
    steps = min(map(len, rows))
    return np.array([row[:steps] for row in rows])


def panel(arm: str, channels: dict[str, np.ndarray], top: float) -> str:
    """One arm: a line a seed and channel, from weight 0 at the bottom to 1."""
    marks = [f'<text x="{LEFT}" y="{top - 6}">{arm}</text>']
    for level in (0.0, 0.5, 1.0):
        y = top + HEIGHT * (1 - level)
        marks.append(f'<line x1="{LEFT}" x2="{WIDTH - 130}" y1="{y}" y2="{y}" stroke="#ddd"/>')
        marks.append(f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{level:g}</text>')
    for number, (name, rows) in enumerate(channels.items()):
        colour = COLOURS[number % len(COLOURS)]
        across = np.linspace(LEFT, WIDTH - 130, rows.shape[1])
        for row in rows:
            points = " ".join(f"{x:.1f},{top + HEIGHT * (1 - y):.1f}" for x, y in zip(across, row, strict=True))
            marks.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        marks.append(f'<text x="{WIDTH - 122}" y="{top + 14 + 15 * number}" fill="{colour}">{name}</text>')
    return "".join(marks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what `concerto compare` wrote")
    parser.add_argument("--out", type=Path, required=True, help="SVG file")
    arguments = parser.parse_args()
    arms = curves(arguments.folder)
    for arm, channels in arms.items():
        last = {name: rows[:, -1] for name, rows in channels.items()}
        print(arm, ", ".join(f"{name} {row.min():.3f} to {row.max():.3f}" for name, row in last.items()))
    moving = {arm: channels for arm, channels in arms.items() if any(np.ptp(rows) > 0 for rows in channels.values())}
    marks = [panel(*arm, top=GAP + number * (HEIGHT + GAP)) for number, arm in enumerate(moving.items())]
    height = GAP + len(moving) * (HEIGHT + GAP)
    arguments.out.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="white"/>{"".join(marks)}</svg>\n',
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
