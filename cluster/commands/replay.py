"""`concerto replay`: train once more on what a run has recorded, in this process alone.

No engine, no environment and no Ray: a breakpoint in a loss stops here, and a change of the learner shows in numbers
that the run has written down. Weights and data are the same at every step, so the losses are too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from rich.console import Console
from rich.table import Table
from transformers.utils import logging as transformers_logging

from cluster.inputs.demonstrations import FILE
from cluster.inputs.models import resolve_model
from cluster.inputs.run_folder import saved_config
from cluster.loop.checkpoint import LEARNER, Manifest, checkpoint_steps, load_manifest, step_dir
from cluster.reporting.metrics import read_metrics
from learners.workers.process import multiply_with_onednn
from learners.workers.worker import LearnerWorker
from trajectories.errors import UserError
from trajectories.files import reading
from trajectories.store import TrajectoryStore, read_cache

SHOWN = ("grpo/loss", "sft/loss", "grad_norm")


@dataclass(frozen=True, slots=True)
class RecordedStep:
    """A learner step as a run left it behind.

    Attributes:
        metrics: its line in `metrics.jsonl`.
        sequences, assignments: what it trained.
    """

    metrics: dict[str, Any]
    sequences: pa.Table
    assignments: pa.Table


def run_replay(run_dir: Path, start: int | None, steps: int | None, console: Console) -> float:
    """Train the recorded steps once more and print their losses beside those of the run.

    Args:
        start: step whose checkpoint to begin from; None: the earliest that there is.
        steps: how many to train; None: all.
    Returns:
        The largest difference in a loss.
    Raises:
        UserError: there is nothing to begin from, or to train.
    """
    config, (checkpoint, manifest) = saved_config(run_dir), find_checkpoint(run_dir, start)
    todo = recorded_steps(run_dir, manifest)
    torch.set_num_threads(max(1, int(config.placement.learner_cpus)))  # as Ray has it for a worker
    multiply_with_onednn()
    transformers_logging.disable_progress_bar()
    worker = LearnerWorker(config.learner_settings(resolve_model(config.policy.model)))
    if checkpoint is not None:
        worker.restore(checkpoint / LEARNER)
    console.print(f"from {checkpoint or config.policy.model}, in this process", highlight=False)
    table, largest = Table("step", "metric", "recorded", "replayed", "difference"), 0.0
    for number, step in enumerate(todo):
        if number == steps:
            break
        found = worker.train(step.metrics["stage"], step.sequences, step.assignments)
        for name in SHOWN:
            if name in step.metrics and name in found:
                before, now = step.metrics[name], found[name]
                table.add_row(str(step.metrics["step"]), name, f"{before:.7g}", f"{now:.7g}", f"{now - before:.1e}")
                largest = max(largest, abs(now - before)) if name.endswith("loss") else largest
    console.print(table)
    console.print(f"Largest difference in a loss: {largest:.1e}.", highlight=False)
    return largest


def find_checkpoint(run_dir: Path, start: int | None) -> tuple[Path | None, Manifest]:
    """The checkpoint after step `start`, or the first after which episodes were trained; None: that is step 0, from
    which a run goes on by its configuration alone."""
    kept = [0, *checkpoint_steps(run_dir)]
    if start is None:
        trained = {
            record["step"] - 1 for record in read_metrics(run_dir) if record["step"] and record["stage"] != "sft"
        }
        start = next((step for step in kept if step in trained), 0)
    if start not in kept:
        raise UserError(f"{run_dir} has no checkpoint after step {start}: choose one of {', '.join(map(str, kept))}.")
    checkpoint = step_dir(run_dir, start) if start else None
    return checkpoint, load_manifest(checkpoint) if checkpoint else Manifest()


def recorded_steps(run_dir: Path, manifest: Manifest) -> Iterator[RecordedStep]:
    """The steps after a checkpoint, in order. Raises UserError where one was not recorded."""
    records = [record for record in read_metrics(run_dir) if record["step"] > manifest.step]
    if not records:
        raise UserError(f"{run_dir} has no step after {manifest.step}: name an earlier checkpoint with --start.")
    if records[0]["stage"] == "sft":
        raise UserError(
            f"step {records[0]['step']} of {run_dir} is one of SFT, whose batches are not recorded: name a checkpoint "
            "of a later stage with --start."
        )
    return _steps(run_dir, records, manifest.parts)


def _steps(run_dir: Path, records: Sequence[dict[str, Any]], first: int) -> Iterator[RecordedStep]:
    store = TrajectoryStore(run_dir / "trajectories")
    shown = read_cache(run_dir / FILE, lambda line: None)
    for part, metrics in enumerate(records, first):
        if metrics["stage"] == "sft":
            return
        with reading(store.directory, f"restore part {part}, or name a later checkpoint with --start."):
            _, sequences, assignments = store.read(part)
        if assignments is None:
            raise UserError(f"part {part} of {store.directory} says not how it was trained: restore its assignments.")
        asked, played = assignments["sequence_id"], sequences["sequence_id"].to_pylist()
        if missing := sorted(set(asked.to_pylist()) - set(played)):
            sequences = pa.concat_tables([sequences, *_demonstrated(shown, missing, run_dir)])
        yield RecordedStep(metrics, sequences, assignments)


def _demonstrated(shown: pa.Table | None, wanted: Sequence[str], run_dir: Path) -> Iterator[pa.Table]:
    """Those demonstrations, one by one. Raises UserError where the run has not kept one."""
    places = {name: row for row, name in enumerate(shown["sequence_id"].to_pylist())} if shown is not None else {}
    for name in wanted:
        if shown is None or name not in places:
            raise UserError(f"{run_dir / FILE} does not hold the sequence {name}, which a step trained: restore it.")
        yield shown.take([places[name]])
