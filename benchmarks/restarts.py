"""A whole job killed ten times over, against the same job left alone: the same tasks, and the same curve?

    python -m benchmarks.restarts --kills 10 --seed 0 --out restarts.json

Three runs of `concerto train` with one seed: two that nothing disturbs, whose difference is what chance does, and one
of which every process gets a kill -9 at random moments, starts included, after each of which it is resumed. SFT comes
first, then GRPO.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.chaos import JOB, Storm, live_through
from benchmarks.models import machine, write_results
from cluster.reporting.metrics import read_metrics
from tests.cluster.runs import train_arguments, trained_tasks

RUNS = ("alone", "alone again", "killed")


def settings(sft_steps: int, grpo_steps: int, seed: int) -> dict[str, Any]:
    return {
        "seed": seed,
        "schedule__sft_steps": sft_steps,
        "schedule__demonstrations": 16 * sft_steps,
        "schedule__sft_batch": 16,
        "schedule__grpo_steps": grpo_steps,
        "schedule__groups_per_step": 4,
        "schedule__group_size": 8,
        "rollout__max_turns": 20,
        "rollout__episodes": 32,
        "evaluation__panels": "[]",
        "checkpoint__every": 5,
        "placement__start_timeout_s": 300,
    }


def column(run: Path, stage: str, name: str) -> np.ndarray:
    """A metric of each step of a stage, in order; the steps must be there once each."""
    records = [record for record in read_metrics(run) if record["stage"] == stage]
    steps = [record["step"] for record in records]
    assert steps == sorted(set(steps)), f"{run} has a step twice"
    return np.array([record[name] for record in records])


def difference(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Mean difference of two curves, step by step, and its standard error."""
    values = one - other
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def compared(folder: Path, names: Sequence[str]) -> dict[str, Any]:
    """What tells the later runs from the first."""
    first, *others = (folder / name / "run" for name in names)
    found: dict[str, Any] = {}
    for name, run in zip(names[1:], others, strict=True):
        losses = np.abs(column(run, "sft", "sft/loss") - column(first, "sft", "sft/loss"))
        mean, error = difference(column(run, "grpo", "success"), column(first, "grpo", "success"))
        found[name] = {
            "same_tasks": trained_tasks(run) == trained_tasks(first),
            "largest_difference_of_sft_loss": float(losses.max()),
            "success_less_first": round(mean, 4),
            "standard_error": round(error, 4),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--every", type=float, default=45.0, help="seconds between two of them, on average")
    parser.add_argument("--sft", type=int, default=60, help="steps of SFT")
    parser.add_argument("--grpo", type=int, default=20, help="steps of GRPO")
    parser.add_argument("--seed", type=int, default=0, help="of the kills and of the runs")
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="concerto-restarts-"))
    results: dict[str, Any] = {"machine": machine(), "seed": options.seed}
    for name in RUNS:
        (folder / name).mkdir()
        changes = settings(options.sft, options.grpo, options.seed)
        arguments = train_arguments(folder / name / "run", Path("concerto-tiny"), **changes)
        storm = Storm(options.kills if name == "killed" else 0, options.every, (JOB,))
        begun = time.monotonic()
        struck = live_through(arguments, folder / name / "log", storm, random.Random(options.seed))
        seconds, success = time.monotonic() - begun, column(folder / name / "run", "grpo", "success").mean()
        results[name] = {"kills": struck, "seconds": round(seconds), "success": round(float(success), 4)}
    results["compared"] = compared(folder, RUNS)
    print(json.dumps({name: value for name, value in results.items() if name != "machine"}, indent=1))
    write_results(options.out, results)
    if not all(one["same_tasks"] for one in results["compared"].values()):
        raise SystemExit(f"the runs did not train the same tasks: see {folder}")


if __name__ == "__main__":
    main()
