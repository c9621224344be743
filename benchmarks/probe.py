"""The gradient probe: sequences per second, batched against one at a time, and its peak memory.

    python -m benchmarks.probe --model DIR --corpus RUN/demonstrations.parquet
    python -m benchmarks.probe --shape 0.5b 1.5b          # random weights and transcripts, e.g. on a GPU

Both ways measure the same sequences and must agree. `half_layers`, `sketch` and `half_and_sketch` are sampled probes,
and `fast` the exact one in bfloat16 (with `_half` behind it, of half the layers); each prints how its Gini orders the
trajectories against the exact probe's (Spearman), and which share of them a median split sends the same way. The
process is set up as a learner worker's. `without norms` is the batched probe that leaves the norms out: no
way to compute them could be faster. With one thread CPU seconds are counted, which other work on the machine disturbs
less; with several, and on a GPU, seconds. Memory is the growth of a process's (a GPU's) peak while it runs one pass
over one batch: the probe against a plain forward and backward pass that leaves the gradient of every parameter.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from benchmarks.figures import Figure, write_figures
from benchmarks.models import SHAPES, finish, machine, random_model, transcripts
from cluster.inputs.models import resolve_model
from learners.learner_settings import PolicySettings
from learners.policy.loading import load_policy
from learners.policy.model import PolicyModel
from learners.workers.process import keep_freed_memory, multiply_with_onednn
from router import probe
from router.analysis import agreement, spearman
from router.geometry import gini
from router.network import PolicyNetwork
from router.probe import ProbeResult, batched, sequential
from router.probing import EXACT, Sample
from trajectories.batch import PaddedBatch, collate
from trajectories.packing import plan_batches
from trajectories.schema import sequences_from_table
from trajectories.types import Sequence

SKETCH = 32
"""Columns of the sketch that is measured."""
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


SPEED, MEMORY = 3.0, 1.5
"""What it is held to: times the speed of one sequence at a time, and times the peak memory of a plain pass."""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="concerto-tiny")
    parser.add_argument("--corpus", type=Path, help="sequences table; without one, random transcripts")
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=[], help="random models instead of --model")
    parser.add_argument("--count", type=int, default=48, help="sequences to measure")
    parser.add_argument("--tokens", type=int, default=1000, help="mean tokens of a random transcript")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--token-budget", type=int, default=1024)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON file")
    return parser


def main() -> None:
    options = make_parser().parse_args()
    keep_freed_memory()
    multiply_with_onednn()
    about, rows = machine(), []
    for shape in options.shape or [None]:
        with tempfile.TemporaryDirectory(prefix="concerto-bench-") as folder:
            model = str(random_model(shape, Path(folder), DEVICE)) if shape else resolve_model(options.model)
            rows += _measure(options, PolicySettings(model=model, dtype=options.dtype), shape)
            write_figures(options.out, "probe", _figures(rows), machine=about, rows=rows)


def _figures(rows: list[dict[str, Any]]) -> list[Figure]:
    """Of each model and number of threads."""
    found = []
    for row in rows:
        where = f"{Path(row['model']).name}, threads: {row['threads']}"
        memory = row["probe_mib"] / row["plain_mib"]
        found += [
            Figure(f"exact probe, {where}", row["batched_passes"], "training passes"),
            Figure(f"exact probe in bfloat16, {where}", row["fast_passes"], "training passes"),
            Figure(f"batched, {where}", row["ratio"], "times as fast as one by one", at_least=SPEED),
            Figure(f"peak memory, {where}", memory, "times a plain pass's", at_most=MEMORY),
        ]
    return found


def _measure(options: argparse.Namespace, config: PolicySettings, shape: str | None) -> list[dict[str, Any]]:
    policy = load_policy(config, 0, DEVICE)
    sequences = _read(options.corpus, options.count, policy.causal_lm.config.vocab_size, options.tokens)
    lengths = sorted(len(sequence.token_ids) for sequence in sequences)
    print(f"{len(sequences)} sequences of {lengths[0]} to {lengths[-1]} tokens, {sum(lengths)} in all")
    about = {"model": shape or options.model, "dtype": config.dtype, "token_budget": options.token_budget}
    about |= {"sequences": len(sequences), "tokens": sum(lengths)}
    rows = []
    for threads in options.threads if DEVICE.type == "cpu" else [torch.get_num_threads()]:
        torch.set_num_threads(threads)
        rows.append(about | {"threads": threads} | _speed(policy, sequences, options.token_budget, options.repeats))
        print(rows[-1])
    del policy
    some = sequences[:8]
    peaks = {f"{kind}_mib": round(_peak(kind, config, some) / 2**20) for kind in ("probe", "plain")}
    print(f"peak memory of one pass over {len(some)} sequences: {peaks}")
    return [row | peaks for row in rows]


def _read(corpus: Path | None, count: int, vocabulary: int, tokens: int) -> list[Sequence]:
    if corpus is None:
        return transcripts(count, tokens, vocabulary)
    return list(sequences_from_table(pq.read_table(corpus).slice(0, count)))


def _speed(policy: PolicyModel, sequences: list[Sequence], token_budget: int, repeats: int) -> dict[str, float]:
    """Sequences per second: the best of some repeats of each way, in turn, so that other work on the machine disturbs
    all alike; and the greatest differences between the two probes."""
    half = Sample(layers=max(1, len(policy.layers) // 2))
    ways: dict[str, Callable[[], ProbeResult]] = {
        "sequential": lambda: sequential(policy, sequences),
        "batched": lambda: batched(policy, sequences, token_budget),
        "half_layers": lambda: batched(policy, sequences, token_budget, half),
        "sketch": lambda: batched(policy, sequences, token_budget, Sample(sketch=SKETCH)),
        "half_and_sketch": lambda: batched(policy, sequences, token_budget, Sample(half.layers, SKETCH)),
        "fast": lambda: _fast(policy, sequences, token_budget, EXACT),
        "fast_half": lambda: _fast(policy, sequences, token_budget, half),
        "fast_training_pass": lambda: _fast_plain(policy, sequences, token_budget),
        "without_norms": lambda: _without_norms(policy, sequences, token_budget),
        "training_pass": lambda: _plain(policy, sequences, token_budget),
    }
    alone = DEVICE.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    best = dict.fromkeys(ways, float("inf"))
    results: dict[str, ProbeResult] = {}
    for _ in range(repeats):
        for name, way in ways.items():
            started = clock()
            results[name] = way()
            finish()
            best[name] = min(best[name], clock() - started)
    difference = (results["batched"].norms / results["sequential"].norms - 1).abs().max()
    ranks = (gini(results["batched"].norms) - gini(results["sequential"].norms)).abs().max()
    rates = {name: round(len(sequences) / seconds, 2) for name, seconds in best.items()}
    ratio = round(best["sequential"] / best["batched"], 2)
    of_a_pass = {f"{name}_passes": round(seconds / best["training_pass"], 2) for name, seconds in best.items()}
    orders = {}
    for name in ("half_layers", "sketch", "half_and_sketch", "fast", "fast_half"):
        orders |= {f"{name}_{what}": value for what, value in _order(results["batched"], results[name]).items()}
    differences = {"norms_differ": float(difference), "gini_differs": float(ranks)}
    return rates | {"ratio": ratio} | of_a_pass | differences | orders


def _order(exact: ProbeResult, sampled: ProbeResult) -> dict[str, float]:
    """How a sampled probe orders the trajectories that an exact one has measured."""
    columns = [dict(zip(found.trajectories, gini(found.norms).tolist(), strict=True)) for found in (exact, sampled)]
    return {"spearman": round(spearman(*columns), 3), "agreement": round(agreement(*columns), 3)}


def _fast(policy: PolicyModel, sequences: list[Sequence], token_budget: int, sample: Sample) -> ProbeResult:
    with policy.computing_in(torch.bfloat16):
        return batched(policy, sequences, token_budget, sample)


def _fast_plain(policy: PolicyModel, sequences: list[Sequence], token_budget: int) -> ProbeResult:
    with policy.computing_in(torch.bfloat16):
        return _plain(policy, sequences, token_budget)


def _without_norms(policy: PolicyModel, sequences: list[Sequence], token_budget: int) -> ProbeResult:
    """The batched probe's forward and backward pass, and nothing measured in it."""

    return probe._probe(policy, sequences, probe._plan(sequences, token_budget), _Nothing)


class _Nothing:
    """Runs the passes and measures nothing."""

    def __init__(self, layers: list[nn.Linear], passes: int, sample: Sample) -> None:
        self._layers, self._owners = len(layers), 0

    def run(self, policy: PolicyNetwork, batch: PaddedBatch, shares: Tensor, owners: list[int]) -> Tensor:
        self._owners = max(owners) + 1
        with probe._states_before(policy, None) as states:
            logprobs = policy(batch)
            torch.autograd.grad((shares * probe._losses(logprobs, batch)).sum(), states)
        return logprobs

    def norms(self) -> Tensor:
        return torch.zeros(self._owners, self._layers)


def _plain(policy: PolicyModel, sequences: list[Sequence], token_budget: int) -> ProbeResult:
    """Forward and backward as training does, in the same batches; the result is of no interest."""
    for rows in plan_batches([len(sequence.token_ids) for sequence in sequences], token_budget):
        policy(collate([sequences[row] for row in rows], DEVICE)).sum().backward()  # pyright: ignore
    policy.zero_grad()
    return ProbeResult((), (), torch.zeros(0), (), torch.zeros(0), torch.zeros(0), ())


def _peak(kind: str, config: PolicySettings, sequences: list[Sequence]) -> int:
    """Bytes, measured in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_here, (kind, config, sequences))


def _peak_here(kind: str, config: PolicySettings, sequences: list[Sequence]) -> int:
    torch.set_num_threads(1)
    policy = load_policy(config, 0, DEVICE)
    cuda = DEVICE.type == "cuda"
    before = torch.cuda.memory_allocated() if cuda else psutil.Process().memory_info().rss
    if kind == "probe":
        batched(policy, sequences, token_budget=10**9)
    else:
        policy(collate(sequences, DEVICE)).sum().backward()  # pyright: ignore
    after = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return after - before


if __name__ == "__main__":
    main()
