"""`concerto demo`: the small embedded model learns ALFWorld on this machine, by SFT and then by GRPO; then it is taken
shopping for three minutes."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

from rich.console import Console

from cluster.commands.train import run_training
from cluster.config.loading import load_config
from cluster.inputs.run_plan import plan_run
from cluster.reporting.evaluation import Evaluations, run_evaluations
from cluster.reporting.evaluation_tables import evaluation_tables
from cluster.reporting.paired import paired_with_earlier
from trajectories.errors import UserError

SHOPPING = (
    "tasks=webshop",
    "data.webshop=generated",
    "schedule.sft_steps=120",
    "schedule.grpo_steps=0",
    "schedule.demonstrations=480",
    "schedule.sft_batch=4",
    "evaluation.limit=100",
    "evaluation.samples=1",
    "rollout.max_turns=8",
    "checkpoint.every=120",
)
"""Changes to the preset `local`: SFT on 480 sessions of the oracle, sized for three minutes."""


def run_demo(out: Path, seed: int, console: Console) -> None:
    """Train with the preset `local`, evaluate before, between and after, and say what came of it."""
    if (out / "config.yaml").exists():
        out = _next_free(out)
    shop = out.with_name(f"{out.name}-webshop")
    if (shop / "config.yaml").exists():
        shop = _next_free(shop)
    started = time.monotonic()
    config = load_config("local", overrides=[f"seed={seed}"])
    console.print(
        "A model of 4.7 million parameters that has read household games, but not what for, learns to play them:\n"
        "first from an expert's episodes (SFT), then from its own (GRPO), with real vLLM rollouts on a local Ray.",
        highlight=False,
    )
    run_training(plan_run(config, out, resume=False), console)
    console.print(
        "\nNow WebShop, in a short run of its own: SFT on 480 sessions of an oracle in a generated shop. They teach\n"
        "to search with words of the instruction, to copy a product's code from a page, to choose options, to buy.",
        highlight=False,
    )
    go_shopping(shop, seed, console)
    for run_dir in (out, shop):
        for table in evaluation_tables(run_evaluations(run_dir)):
            console.print(table)
    for gained in gains(run_evaluations(out)):
        console.print(gained, highlight=False)
    command = "concerto" if shutil.which("concerto") else Path(sys.executable).with_name("concerto")
    console.print(
        f"Took {(time.monotonic() - started) / 60:.1f} minutes. The runs are in {out} and {shop}: learning_curve.svg, "
        f"metrics.jsonl, evaluations/, trajectories/, model/.\n"
        f"Next, see what kinds of games the trained model solves, and read how it plays:\n"
        f"  {command} eval --model {out}/model --panel alfworld/generated/heldout --limit 60 --out {out}/eval.json",
        highlight=False,
    )


def gains(evaluations: Evaluations) -> list[str]:
    """What RL changed since SFT, a line for each panel that was sampled before and after."""
    lines = []
    for pair in paired_with_earlier(evaluations):
        if (pair.weights, pair.against) == ("after_grpo", "after_sft") and pair.sampled:
            by_chance = pair.sampled.low <= 0 <= pair.sampled.high
            lines.append(
                f"GRPO changed sampled success on {pair.panel} by {pair.sampled}, "
                f"{'no more than' if by_chance else 'more than'} chance explains; "
                f"greedy play won {pair.greedy.won} games and lost {pair.greedy.lost}."
            )
    return lines


def go_shopping(out: Path, seed: int, console: Console) -> None:
    """The WebShop part: the base model, SFT, and its held-out goals in the generated catalogue before and after."""
    config = load_config("local", overrides=[f"seed={seed}", *SHOPPING])
    run_training(plan_run(config, out, resume=False), console)


def _next_free(out: Path) -> Path:
    for number in range(2, 1000):
        candidate = out.with_name(f"{out.name}-{number}")
        if not candidate.exists():
            return candidate
    raise UserError(f"{out} and its numbered successors hold runs: remove some, or name another --out.")
