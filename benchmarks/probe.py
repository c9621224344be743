"""The gradient probe: sequences per second, batched against one at a time, and its peak memory.

    python -m benchmarks.probe --model DIR --corpus RUN/demonstrations.parquet

Both ways measure the same sequences and must agree. `without norms` is the batched probe that leaves the norms out: no
way to compute them could be faster. With one thread CPU seconds are counted, which other work on the machine disturbs
less; with several, seconds. Memory is the growth of a process's peak while it runs one pass
over one batch: the probe against a plain forward and backward pass that leaves the gradient of every parameter.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from cluster.inputs.models import resolve_model
from learners.learner_config import PolicyConfig
from learners.policy.model import PolicyModel, load_policy
from router import probe
from router.batch import ProbeBatch, collate
from router.geometry import gini
from router.probe import PolicyNetwork, ProbeResult, batched, sequential
from trajectories.packing import plan_batches
from trajectories.schema import sequences_from_table
from trajectories.types import Sequence


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="concerto-tiny")
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--count", type=int, default=48, help="sequences to measure")
    parser.add_argument("--token-budget", type=int, default=1024)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    model, sequences = resolve_model(options.model), _read(options.corpus, options.count)
    lengths = sorted(len(sequence.token_ids) for sequence in sequences)
    print(f"{len(sequences)} sequences of {lengths[0]} to {lengths[-1]} tokens, {sum(lengths)} in all")
    policy = load_policy(PolicyConfig(model=model), seed=0)
    for threads in options.threads:
        torch.set_num_threads(threads)
        _speed(policy, sequences, options.token_budget, options.repeats, threads)
    batch = sequences[:8]
    probed, plain = (_peak(kind, model, options.corpus, len(batch)) for kind in ("probe", "plain"))
    print(
        f"peak memory of one pass over {len(batch)} sequences: probe {probed / 2**20:.0f} MiB, "
        f"plain forward and backward {plain / 2**20:.0f} MiB, ratio {probed / plain:.2f}"
    )


def _read(corpus: Path, count: int) -> list[Sequence]:
    return list(sequences_from_table(pq.read_table(corpus).slice(0, count)))


def _speed(policy: PolicyModel, sequences: list[Sequence], token_budget: int, repeats: int, threads: int) -> None:
    """The best of some repeats of each, in turn, so that other work on the machine disturbs both alike."""
    ways: dict[str, Callable[[], ProbeResult]] = {
        "sequential": lambda: sequential(policy, sequences),
        "batched": lambda: batched(policy, sequences, token_budget),
        "without norms": lambda: _without_norms(policy, sequences, token_budget),
        "training pass": lambda: _plain(policy, sequences, token_budget),
    }
    clock = time.process_time if threads == 1 else time.perf_counter
    best = dict.fromkeys(ways, float("inf"))
    results: dict[str, ProbeResult] = {}
    for _ in range(repeats):
        for name, way in ways.items():
            started = clock()
            results[name] = way()
            best[name] = min(best[name], clock() - started)
    difference = (results["batched"].norms / results["sequential"].norms - 1).abs().max()
    ranks = (gini(results["batched"].norms) - gini(results["sequential"].norms)).abs().max()
    rates = ", ".join(f"{name} {len(sequences) / seconds:.2f}" for name, seconds in best.items())
    print(
        f"{threads} threads, sequences/s: {rates}; batched/sequential {best['sequential'] / best['batched']:.2f}; "
        f"greatest difference: norms {difference:.1e} relative, gini {ranks:.1e}"
    )


def _without_norms(policy: PolicyModel, sequences: list[Sequence], token_budget: int) -> ProbeResult:
    """The batched probe's forward and backward pass, and nothing measured in it."""

    def run(policy: PolicyNetwork, batch: ProbeBatch, layers: list[nn.Linear]) -> tuple[Tensor, Tensor]:
        with probe._embeddings(policy.causal_lm) as embedded:
            logprobs = policy(batch)
            torch.autograd.grad(probe._losses(logprobs, batch).sum(), embedded)
        return logprobs, torch.zeros(len(batch.lengths), len(layers))

    return probe._probe(policy, sequences, probe._plan(sequences, token_budget), run)


def _plain(policy: PolicyModel, sequences: list[Sequence], token_budget: int) -> ProbeResult:
    """Forward and backward as training does, in the same batches; the result is of no interest."""
    for rows in plan_batches([len(sequence.token_ids) for sequence in sequences], token_budget):
        policy(collate([sequences[row] for row in rows], torch.device("cpu"))).sum().backward()  # pyright: ignore
    policy.zero_grad()
    return ProbeResult((), torch.zeros(0), torch.zeros(0), torch.zeros(0), ())


def _peak(kind: str, model: str, corpus: Path, count: int) -> int:
    """Bytes, measured in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_here, (kind, model, str(corpus), count))


def _peak_here(kind: str, model: str, corpus: str, count: int) -> int:
    torch.set_num_threads(1)
    policy, sequences = load_policy(PolicyConfig(model=model), seed=0), _read(Path(corpus), count)
    before = psutil.Process().memory_info().rss
    if kind == "probe":
        batched(policy, sequences, token_budget=10**9)
    else:
        policy(collate(sequences, torch.device("cpu"))).sum().backward()  # pyright: ignore
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before


if __name__ == "__main__":
    main()
