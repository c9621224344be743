"""Memory and seconds of one worker and of several on the same model and the same batches, over gloo on this machine.

    python -m benchmarks.sharding --workers 1 2 --passes 1 4

Memory is the growth of a worker's resident set from before the model is loaded to its peak, the most over workers.
Freed memory goes back to the system at once, so that what a worker needs is seen; with --keep-freed the C library keeps
it, as in a run, where that saves time. `step` adds gradients up once a step, `pass` in every pass.
"""

from __future__ import annotations

import argparse
import ctypes
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from transformers import AutoModelForCausalLM, Qwen2Config

from benchmarks.models import machine, transcripts, write_results
from learners.learner_settings import OptimizerSettings, PolicySettings, SFTSettings
from learners.objectives.objective import Example
from learners.objectives.sft import SFTObjective
from learners.policy.shard import PolicyShard, Term
from learners.workers.process import M_MMAP_THRESHOLD, keep_freed_memory

VOCABULARY, TOKENS = 8192, 64


@dataclass(frozen=True, slots=True)
class Case:
    """Workers, how they reduce, passes of each worker in a step, and whether the C library keeps freed memory."""

    workers: int
    reduce: str
    passes: int
    keep_freed: bool


class Peak(threading.Thread):
    """Largest resident set of this process, in bytes, looked at a hundred times a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._process = psutil.Process()
        self.before = self.most = self._process.memory_info().rss

    def run(self) -> None:
        while True:
            self.most = max(self.most, self._process.memory_info().rss)
            time.sleep(0.01)


def random_model(folder: Path) -> int:
    """Write a Qwen2 of 40 layers with random float32 weights; its number of weights."""
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=384,
        intermediate_size=1536,
        num_hidden_layers=40,
        num_attention_heads=6,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def work(rank: int, case: Case, folder: Path, steps: int) -> None:
    """One worker: load, then a few steps of SFT on as many sequences a worker as passes."""
    torch.set_num_threads(1)
    if case.keep_freed:
        keep_freed_memory()
    else:
        ctypes.CDLL("libc.so.6").mallopt(M_MMAP_THRESHOLD, 1 << 16)
    if case.workers > 1:
        dist.init_process_group(
            "gloo", init_method=f"file://{folder}/{case.reduce}{case.passes}", rank=rank, world_size=case.workers
        )
    peak = Peak()
    peak.start()
    optimizer = OptimizerSettings(lr=1e-5, token_budget=1, reduce_gradients=case.reduce)  # pyright: ignore
    shard = PolicyShard(PolicySettings(model=str(folder / "model")), optimizer)
    loaded = peak.most - peak.before
    examples = [Example(s, 1.0) for s in transcripts(case.workers * case.passes, TOKENS, VOCABULARY)]
    seconds, losses = [], []
    for _ in range(steps):
        started = time.perf_counter()
        metrics = shard.step([Term(SFTObjective(SFTSettings()), examples[rank :: case.workers])])
        seconds.append(time.perf_counter() - started)
        losses.append(metrics["sft/loss"])
    found = {"loaded": loaded, "peak": peak.most - peak.before, "seconds": min(seconds), "losses": losses}
    torch.save(found, folder / f"found-{rank}.pt")
    if case.workers > 1:
        dist.destroy_process_group()


def measure(case: Case, folder: Path, steps: int) -> dict[str, Any]:
    """A row of the table, in MiB and seconds; workers have processes of their own."""
    mp.spawn(work, args=(case, folder, steps), nprocs=case.workers)  # pyright: ignore[reportPrivateImportUsage]
    ranks = [torch.load(folder / f"found-{rank}.pt") for rank in range(case.workers)]
    row: dict[str, Any] = {"workers": case.workers, "reduce": case.reduce, "passes": case.passes}
    row["keep_freed"] = case.keep_freed
    row |= {f"{name}_mib": round(max(rank[name] for rank in ranks) / 2**20) for name in ("loaded", "peak")}
    return row | {"seconds": round(max(rank["seconds"] for rank in ranks), 2), "loss": ranks[0]["losses"][-1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--passes", type=int, nargs="+", default=[1, 4], help="of each worker in a step")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--keep-freed", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="concerto-bench-") as directory:
        folder = Path(directory)
        results: dict[str, Any] = {"weights": random_model(folder / "model"), "machine": machine(), "rows": []}
        print(f"{results['weights'] / 1e6:.1f} million weights, float32")
        for passes in options.passes:
            alone = None
            for workers in options.workers:
                for reduce in ("step", "pass") if workers > 1 and passes > 1 else ("step",):
                    row = measure(Case(workers, reduce, passes, options.keep_freed), folder, options.steps)
                    alone = alone or row["peak_mib"]
                    row["of_first"] = round(row["peak_mib"] / alone, 3)
                    results["rows"].append(row)
                    print(row, flush=True)
                    write_results(options.out, results)


if __name__ == "__main__":
    main()
