"""The learner's GRPO step against TRL's `GRPOTrainer`: same model, same sequences, same machine, a process each.

    python3.11 -m venv trl-env && trl-env/bin/pip install torch==2.13.0 transformers==5.19.0 trl==1.16.0
    python -m benchmarks.against_trl --python trl-env/bin/python --shape 135m --rows 1 2 4

`--rows`: sequences in one pass of TRL, which takes a number of them; ours takes 1,024 tokens, since random transcripts
begin with nothing alike. Memory is the most that the whole process ever held, imports and all.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.figures import Figure, write_figures
from benchmarks.learner import ours
from benchmarks.models import SHAPES, machine, random_model, transcripts
from learners.learner_settings import OptimizerSettings, PolicySettings
from learners.policy.shard import PolicyShard
from learners.tiny import embedded_model_path
from learners.workers.process import keep_freed_memory, multiply_with_onednn
from trajectories.types import Sequence

STEPS = Path(__file__).parent / "peers" / "trl_steps.py"
BUDGET = 1024
"""Tokens of one pass of ours: larger ones leave the caches of a CPU."""


def step_ours(model: str, asked: dict[str, Any]) -> None:
    """Our steps, in this process; prints what `trl_steps` prints."""
    keep_freed_memory()
    multiply_with_onednn()
    torch.set_num_threads(asked["threads"])
    policy = PolicyShard(
        PolicySettings(model=model, dtype=asked["dtype"]), OptimizerSettings(lr=1e-6, token_budget=BUDGET)
    )
    step = ours(policy, transcripts(asked["sequences"], asked["tokens"], SHAPES[asked["shape"]].vocab))
    seconds = []
    for _ in range(asked["steps"]):
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds[1:], "peak_mib": round(peak)}))


def write_batch(file: Path, sequences: list[Sequence]) -> None:
    """The sequences for a process that has none of our packages."""
    np.savez(
        file,
        tokens=np.concatenate([one.token_ids for one in sequences]),
        trained=np.concatenate([one.trained for one in sequences]),
        ends=np.cumsum([len(one.token_ids) for one in sequences]),
    )


def run(command: list[str], tokens: int) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:3])} failed:\n{done.stderr[-2000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    seconds = statistics.median(found["seconds"])
    return {"tokens_per_s": round(tokens / seconds)} | found | {"seconds": round(seconds, 2)}


def best_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """TRL's fastest row."""
    return max(rows[1:], key=lambda row: row["tokens_per_s"])


def figures(rows: list[dict[str, Any]]) -> list[Figure]:
    """Ours, TRL's at its fastest, and their ratios."""
    mine, best = rows[0], best_of(rows)
    return [
        *(Figure(row["who"], row["tokens_per_s"], "tokens a second") for row in (mine, best)),
        Figure("tokens a second", mine["tokens_per_s"] / best["tokens_per_s"], "times TRL's at its fastest"),
        *(Figure(f"peak memory, {row['who']}", row["peak_mib"], "MiB") for row in (mine, best)),
        Figure("peak memory", mine["peak_mib"] / best["peak_mib"], "times TRL's at its fastest"),
    ]


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, help="of an environment with TRL")
    parser.add_argument("--shape", choices=SHAPES, default="135m")
    parser.add_argument("--sequences", type=int, default=16, help="transcripts a step; a multiple of 8")
    parser.add_argument("--tokens", type=int, default=300, help="mean tokens of a transcript")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 2, 4], help="sequences in one pass of TRL")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--steps", type=int, default=4, help="the first one is not counted")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="JSON file")
    parser.add_argument("--ours", help=argparse.SUPPRESS)
    return parser


def main() -> None:
    options = make_parser().parse_args()
    asked = {name: getattr(options, name) for name in ("shape", "sequences", "tokens", "dtype", "steps", "threads")}
    if options.ours:
        return step_ours(options.ours, asked)
    with tempfile.TemporaryDirectory(prefix="concerto-bench-") as directory:
        folder = Path(directory)
        model = str(random_model(options.shape, folder / "model", torch.device("cpu")))
        sequences = transcripts(options.sequences, options.tokens, SHAPES[options.shape].vocab)
        tokens = sum(len(one.token_ids) for one in sequences)
        write_batch(folder / "batch.npz", sequences)
        own = [sys.executable, "-m", "benchmarks.against_trl", *sys.argv[1:], "--ours", model]
        rows: list[dict[str, Any]] = [{"who": "concerto"} | run(own, tokens)]
        print(rows[0], flush=True)
        asked |= {"tokenizer": str(embedded_model_path())}
        for count in options.rows:
            command = [options.python, str(STEPS), str(folder / "batch.npz"), model]
            found = run([*command, json.dumps(asked | {"rows": count})], tokens)
            rows.append({"who": f"trl, {count} a pass"} | found)
            print(rows[-1], flush=True)
            details = {"machine": machine(), "asked": asked, "tokens": tokens, "rows": rows}
            write_figures(options.out, "against_trl", figures(rows), **details)
    best = best_of(rows)
    print(
        f"concerto: {rows[0]['tokens_per_s'] / best['tokens_per_s']:.2f} times the best of TRL, "
        f"{rows[0]['peak_mib'] / best['peak_mib']:.2f} times its memory"
    )


if __name__ == "__main__":
    main()
