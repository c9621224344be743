"""The learner: tokens per second, share of the machine's matrix rate and peak memory of a GRPO step, by model shape.

    python -m benchmarks.learner --shape 0.5b 1.5b --token-budget 8192 32768 [--lora 32] [--gradient-checkpointing]

A step trains random transcripts. `plain` is the loop that a user would write with transformers alone: the same
micro-batches, autocast, logits for every position. FLOP utilisation counts what the model needs (recomputed activations
and the head at untrained positions are not needed) and divides by a large matrix product's rate on the same machine.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.figures import Figure, write_figures
from benchmarks.models import SHAPES, finish, machine, random_model, transcripts
from learners.learner_settings import GRPOSettings, LoraSettings, OptimizerSettings, PolicySettings
from learners.objectives.grpo import GRPOObjective
from learners.objectives.objective import Example
from learners.policy.shard import PolicyShard, Term
from learners.workers.process import keep_freed_memory, multiply_with_onednn
from trajectories.batch import collate
from trajectories.packing import plan_batches
from trajectories.types import Sequence


def model_flops(shape: str, sequences: list[Sequence], trains_all: bool) -> float:
    """Floating-point operations that one training step needs.

    A weight costs 2 a token forward, 2 for the gradient of its input and 2 for its own, the last only where it trains;
    causal attention 2 T^2 D a layer forward, and twice that backward.
    """
    size = SHAPES[shape]
    width = size.hidden // size.heads * size.kv_heads
    layer = 2 * size.hidden**2 + 2 * size.hidden * width + 3 * size.hidden * size.intermediate
    lengths = [len(sequence.token_ids) for sequence in sequences]
    trained = sum(int(sequence.trained.sum()) for sequence in sequences)
    weights = size.layers * layer * sum(lengths) + size.vocab * size.hidden * trained
    attention = 6 * size.layers * size.hidden * sum(length**2 for length in lengths)
    return (6 if trains_all else 4) * weights + attention


def ours(policy: PolicyShard, sequences: list[Sequence]) -> Callable[[], None]:
    """One GRPO step on all sequences."""
    objective = GRPOObjective(GRPOSettings())

    def step() -> None:
        examples = [Example(sequence, 1.0, (1.0 - 2.0 * (index % 2),)) for index, sequence in enumerate(sequences)]
        policy.step([Term(objective, examples)])

    return step


def plain(policy: PolicyShard, sequences: list[Sequence], token_budget: int) -> Callable[[], None]:
    """One step as by hand, on the same weights."""
    model = policy.model.causal_lm
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6, fused=True)
    plan = plan_batches([len(sequence.token_ids) for sequence in sequences], token_budget)

    def step() -> None:
        for rows in plan:
            batch = collate([sequences[row] for row in rows], model.device)
            with torch.autocast(model.device.type, torch.bfloat16, enabled=policy.config.dtype == "bfloat16"):
                logits = model(input_ids=batch.input_ids, use_cache=False).logits
            picked = logits.flatten(0, 1)[batch.positions].float()
            (F.cross_entropy(picked, batch.targets, reduction="sum") / len(picked)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def measure(step: Callable[[], None], repeats: int) -> tuple[float, float | None]:
    """Median seconds of a step after a first one, and GiB at the peak (of a GPU only)."""
    step()
    finish()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        step()
        finish()
        seconds.append(time.perf_counter() - started)
    peak = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None
    return sorted(seconds)[len(seconds) // 2], peak


def case(arguments: argparse.Namespace, shape: str, model: Path, budget: int, rate: float) -> list[dict[str, Any]]:
    """Rows of the table for one model at one token budget."""
    sequences = transcripts(arguments.sequences, arguments.tokens, SHAPES[shape].vocab)
    tokens = sum(len(sequence.token_ids) for sequence in sequences)
    policy = PolicyShard(
        PolicySettings(
            model=str(model),
            dtype=arguments.dtype,
            lora=LoraSettings(rank=arguments.lora) if arguments.lora else None,
            gradient_checkpointing=arguments.gradient_checkpointing,
        ),
        OptimizerSettings(lr=1e-6, token_budget=budget),
    )
    ways = {"concerto": ours(policy, sequences)}
    if arguments.plain:
        ways["plain"] = plain(policy, sequences, budget)
    flops = model_flops(shape, sequences, trains_all=not arguments.lora)
    rows = []
    for way, step in ways.items():
        row: dict[str, Any] = {"shape": shape, "way": way, "lora": arguments.lora, "token_budget": budget}
        row |= {"gradient_checkpointing": arguments.gradient_checkpointing, "tokens": tokens}
        try:
            seconds, peak = measure(step, arguments.repeats)
        except torch.OutOfMemoryError as error:
            row["error"] = str(error).partition(".")[0]
        else:
            row |= {"seconds": round(seconds, 4), "tokens_per_s": round(tokens / seconds)}
            row |= {"utilisation": round(flops / seconds / rate, 4), "peak_gib": round(peak, 2) if peak else None}
        print("  ".join(f"{key}={value}" for key, value in row.items()), flush=True)
        rows.append(row)
    return rows


def figures(rows: list[dict[str, Any]]) -> list[Figure]:
    """Tokens a second of each row that fitted, share of the matrix rate, and the ratio to the plain loop after it."""
    found, mine = [], 0.0
    for row in rows:
        if "error" in row:
            continue
        name, rate = f"{row['shape']}, {row['token_budget']:,} tokens a pass", row["tokens_per_s"]
        found.append(Figure(f"{name}, {row['way']}", rate, "tokens a second"))
        found.append(Figure(f"{name}, {row['way']}", 100 * row["utilisation"], "% of the matrix rate"))
        if row["way"] == "plain" and mine:
            found.append(Figure(name, mine / rate, "times the plain loop's tokens"))
        mine = rate if row["way"] == "concerto" else 0.0
    return found


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=["135m"])
    parser.add_argument("--token-budget", type=int, nargs="+", default=[8192], help="tokens in one forward pass")
    parser.add_argument("--sequences", type=int, default=64, help="transcripts a step")
    parser.add_argument("--tokens", type=int, default=1000, help="mean tokens of a transcript")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--lora", type=int, default=0, help="rank of adapters; 0 trains all weights")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--plain", action="store_true", help="measure a plain transformers loop beside it")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON file")
    return parser


def main() -> None:
    arguments = make_parser().parse_args()
    keep_freed_memory()
    multiply_with_onednn()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    about, rows = machine(), []
    print(about)
    for shape in arguments.shape:
        with tempfile.TemporaryDirectory(prefix="concerto-bench-") as folder:
            model = random_model(shape, Path(folder), device)
            for budget in arguments.token_budget:
                rows += case(arguments, shape, model, budget, about["matrix_tflops"] * 1e12)
                write_figures(arguments.out, "learner", figures(rows), machine=about, rows=rows)
                gc.collect()
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
