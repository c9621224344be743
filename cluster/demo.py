"""`concerto demo`: the small embedded model learns ALFWorld on this machine, by SFT and then by GRPO."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console

from cluster.config import load_config
from cluster.errors import UserError
from cluster.report import evaluation_tables, run_evaluations
from cluster.train import plan_run, run_training


def run_demo(out: Path, seed: int, console: Console) -> None:
    """Train with the preset `local`, evaluate before, between and after, and say what came of it."""
    if (out / "config.yaml").exists():
        out = _next_free(out)
    started = time.monotonic()
    config = load_config("local", overrides=[f"seed={seed}"])
    console.print(
        "A 4-million-parameter model that has read household games, but was never told what for, learns to play them:\n"
        "first from an expert's episodes (SFT), then from its own (GRPO), with real vLLM rollouts on a local Ray.",
        highlight=False,
    )
    run_training(plan_run(config, out, resume=False), console)
    for table in evaluation_tables(run_evaluations(out)):
        console.print(table)
    console.print(
        f"Took {(time.monotonic() - started) / 60:.1f} minutes. The run is in {out}: learning_curve.svg, "
        f"metrics.jsonl, evaluations/, trajectories/, model/.\n"
        f"Next, let the trained model play the held-out games with sampling too:\n"
        f"  concerto eval --model {out}/model --panel alfworld/generated/heldout --limit 60 --out {out}/eval.json",
        highlight=False,
    )


def _next_free(out: Path) -> Path:
    for number in range(2, 1000):
        candidate = out.with_name(f"{out.name}-{number}")
        if not candidate.exists():
            return candidate
    raise UserError(f"{out} and its numbered successors hold runs: remove some, or name another --out.")
