"""A GRPO step of this commit against that of another one, part by part, in one run.

    git worktree add ../before 3810382
    python -m benchmarks.grpo_step MODEL --against ../before [--steps 10] [--rounds 1] [--out FILE]

Each tree trains MODEL (a directory) on ALFWorld with the same seed and settings, 64 episodes a step, in turn. The first
step, which waits for the engine to warm up, does not count. `learner` and `waiting` are a step's seconds in the learner
and in waiting for episodes; `engine` and `environment` are an episode's, most of which overlap with other episodes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.models import machine
from cluster.reporting.metrics import read_metrics
from trajectories.store import TrajectoryStore

HERE = Path(__file__).parents[1]
SETTINGS = {
    "seed": 5,
    "schedule.sft_steps": 0,
    "schedule.groups_per_step": 8,
    "schedule.group_size": 8,
    "rollout.max_turns": 20,
    "rollout.episodes": 64,
    "evaluation.panels": "[]",
    "checkpoint.every": 1000,
    "learner.lr": 1e-4,
}


def train(tree: Path, model: Path, steps: int, out: Path) -> None:
    """A run of the code in `tree`. Raises CalledProcessError."""
    settings = SETTINGS | {"policy.model": model.resolve(), "schedule.grpo_steps": steps}
    overrides = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    command = [sys.executable, "-m", "cluster", "train", "--preset", "local", "--out", str(out), *overrides]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(tree.resolve())}
    subprocess.run(command, cwd=tree, env=environment, check=True, stdout=subprocess.DEVNULL)


def parts(run: Path) -> dict[str, float]:
    """Medians over the steps but the first, and means over their episodes."""
    steps = read_metrics(run)[1:]
    store = TrajectoryStore(run / "trajectories")
    episodes = [row for part in range(1, len(store)) for row in store.read(part)[0].to_pylist()]
    seconds = {"step": "step_s", "learner": "seconds", "waiting": "waited_s"}
    each = {"engine": "generation_seconds", "environment": "environment_seconds", "queue": "waiting_seconds"}
    found = {name: statistics.median(step[key] for step in steps) for name, key in seconds.items()}
    found |= {name: statistics.mean(row[key] for row in episodes) for name, key in each.items()}
    minutes = sum(step["step_s"] for step in steps) / 60
    turns = statistics.mean(row["turns"] for row in episodes)
    return found | {"turns": turns, "episodes_per_minute": len(episodes) / minutes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--against", type=Path, required=True, help="another checkout of Concerto")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON file")
    arguments = parser.parse_args()
    trees = {"before": arguments.against, "now": HERE}
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in trees}
    for number in range(arguments.rounds):
        for name, tree in trees.items():
            with tempfile.TemporaryDirectory() as folder:
                run = Path(folder) / f"{name}-{number}"
                train(tree, arguments.model, arguments.steps, run)
                rounds[name].append(parts(run))
            print(name, {part: round(value, 3) for part, value in rounds[name][-1].items()}, flush=True)
    rates = {name: statistics.mean(row["episodes_per_minute"] for row in rows) for name, rows in rounds.items()}
    print(f"episodes a minute: {rates['now'] / rates['before']:.2f} times as many as before")
    if arguments.out:
        arguments.out.write_text(json.dumps({"machine": machine(), "rounds": rounds}, indent=1) + "\n")


if __name__ == "__main__":
    main()
