"""What it is worth to compute what the members of a group begin with alike only once: GRPO steps with and without.

    python -m benchmarks.sharing [--dtype bfloat16] [--token-budget 1024 4096] [--run RUN] [--model DIR] [--rounds 3]

Both ways train the same sequences in one process, in turns, at every token budget; a first step of each does not count.
Without --run the sequences are a random group: a common start of 540 tokens, then 600 to 900 of each member's own, a
quarter of them trained. With it they are the first groups of a recorded run, whose members also share turns in which
they chose the same actions (tokens must be within the vocabulary of the model: of --model, or a random one of --shape).
Seconds are the process's CPU time, which other work on the machine disturbs least; on a GPU, those of the clock.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from benchmarks.learner import ours
from benchmarks.models import SHAPES, finish, machine, random_model, write_results
from learners.learner_settings import OptimizerSettings, PolicySettings
from learners.policy.model import PolicyModel
from learners.policy.shard import PolicyShard
from learners.workers.process import keep_freed_memory, multiply_with_onednn
from trajectories import schema
from trajectories.batch import collate
from trajectories.sharing import plan_passes
from trajectories.store import TrajectoryStore
from trajectories.types import Sequence, Turn

START, OWN = 540, (600, 901)
"""Tokens that a random group begins with, and the range of those that are a member's own."""


def random_group(members: int, vocabulary: int) -> list[Sequence]:
    """One that parts for good after its common start."""
    generator = np.random.default_rng(0)
    start = generator.integers(3, vocabulary, START)
    found = []
    for member in range(members):
        own = generator.integers(3, vocabulary, generator.integers(*OWN))
        tokens = np.concatenate([start, own]).astype(np.int32)
        trained = (np.arange(len(tokens)) >= START) & (np.arange(len(tokens)) % 4 == 3)
        logprobs, turns = np.where(trained, -2.0, 0.0).astype(np.float32), (Turn(START, len(tokens), 0.0, 0, True),)
        found.append(Sequence(str(member), str(member), "g", tokens, trained, logprobs, turns, (), 1.0))
    return found


def recorded_groups(run: Path, groups: int) -> list[Sequence]:
    """The first groups of a run; all turns of a sequence count alike."""
    rows = schema.sequences_from_table(TrajectoryStore(run / "trajectories").read(0)[1])
    names = list(dict.fromkeys(row.group_id for row in rows))[:groups]
    chosen = [row for row in rows if row.group_id in names]
    return [replace(row, turns=(Turn(1, len(row.token_ids), 0.0, 0, True),)) for row in chosen]


def measure(policy: PolicyShard, sequences: list[Sequence], rounds: int) -> dict[str, float]:
    """Median seconds of a step either way, and the median of the rounds' ratios."""
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    step, seconds = ours(policy, sequences), {True: [], False: []}
    for _, share in itertools.product(range(rounds + 1), (False, True)):
        with mock.patch.object(PolicyModel, "shares", share):
            started = clock()
            step()
            finish()
        seconds[share].append(clock() - started)
    padded, shared = (seconds[share][1:] for share in (False, True))
    ratios = [before / after for before, after in zip(padded, shared, strict=True)]
    found = {"padded_s": statistics.median(padded), "shared_s": statistics.median(shared)}
    return {name: round(value, 2) for name, value in (found | {"times": statistics.median(ratios)}).items()}


def computed(sequences: list[Sequence], budget: int) -> int:
    """Tokens, padding counted, that the layers run over where tokens are shared."""
    batches = [
        collate([sequences[at] for at in rows], torch.device("cpu"), share=True)
        for rows in plan_passes(sequences, budget, True)
    ]
    return sum(batch.input_ids.numel() if batch.shared is None else len(batch.shared.first) for batch in batches)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="135m")
    parser.add_argument("--model", type=Path, help="directory of a model; without it a random one of --shape")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--token-budget", type=int, nargs="+", default=[1024, 4096, 8192])
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--run", type=Path, help="take the groups of a recorded run")
    parser.add_argument("--groups", type=int, default=1, help="of the recorded run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    keep_freed_memory()
    multiply_with_onednn()
    sequences = (
        recorded_groups(options.run, options.groups) if options.run else random_group(8, SHAPES[options.shape].vocab)
    )
    tokens = sum(len(sequence.token_ids) for sequence in sequences)
    results: dict[str, Any] = {"machine": machine(), "sequences": len(sequences), "tokens": tokens, "rows": []}
    print(results, flush=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory(prefix="concerto-bench-") as folder:
        settings = PolicySettings(
            model=str(options.model or random_model(options.shape, Path(folder), device)),
            dtype=options.dtype,
            gradient_checkpointing=options.gradient_checkpointing,
        )
        for budget in options.token_budget:
            policy = PolicyShard(settings, OptimizerSettings(lr=1e-6, token_budget=budget))
            row: dict[str, Any] = {"token_budget": budget, "computed": computed(sequences, budget)}
            row |= measure(policy, sequences, options.rounds)
            print("  ".join(f"{key}={value}" for key, value in row.items()), flush=True)
            results["rows"].append(row)
            write_results(options.out, results)


if __name__ == "__main__":
    main()
