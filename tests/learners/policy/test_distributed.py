"""Two gloo workers give what one worker gives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from learners.learner_settings import GRPOSettings, LearnerSettings
from learners.objectives.assign import pending_assignments
from learners.rewards.channels import Reading
from learners.rewards.weigher import Weighed
from learners.workers import worker as worker_module
from learners.workers.worker import LearnerWorker, Stage
from router.geometry import gini
from router.probe import ProbeResult
from router.probing import Probing
from tests.learners.rewards.test_weigher import check_same, scalariser, single_sequence_episodes
from tests.learners.samples import learner_settings, make_sequences, make_tables, published, save, tables_of_step
from trajectories import schema

COUNTS = (7, 1, 4)
"""Sequences of each step; with one, a worker has none."""
PROBED = (7, 1)
"""Sequences of each probe: shares of different size, and of none."""


@dataclass
class Run:
    metrics: list[dict[str, float]]
    scores: list[np.ndarray]
    probes: list[ProbeResult]
    weighed: Weighed | None
    reading: Reading
    weights: dict[str, torch.Tensor]


def train(config: LearnerSettings, directory: Path) -> Run:
    """Three mixed steps with a save and a restore before the last, and one in which the workers find the advantages."""
    worker = LearnerWorker(config)
    metrics = [
        worker.train("mixed", *make_tables(make_sequences(count, seed), seed)) for seed, count in enumerate(COUNTS[:2])
    ]
    save(worker, directory / "checkpoint")
    worker.train("mixed", *make_tables(make_sequences(5, 9), 9))
    worker.restore(directory / "checkpoint")
    metrics.append(worker.train("mixed", *make_tables(make_sequences(COUNTS[2], 2), 2)))
    scores = worker.score(make_tables(make_sequences(3, 5))[0])
    probes = [worker.probe(make_tables(make_sequences(count, 5))[0], Probing(token_budget=64)) for count in PROBED]
    rows, batch = single_sequence_episodes(12)  # three groups: one worker runs idle once
    table = schema.sequences_to_table(rows)
    step, weighed = worker.train_weighing("mixed", table, pending_assignments(table, batch), batch, scalariser())
    metrics.append(step)
    reading = worker.read(make_tables(make_sequences(3, 5))[0])
    worker.save_pretrained(directory / "model")
    return Run(metrics, scores, probes, weighed, reading, published(worker.policy))


def run_rank(rank: int, world: int, directory: Path, configs: dict[str, LearnerSettings]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{directory}/rendezvous", rank=rank, world_size=world)
    for kind, config in configs.items():
        torch.save(train(config, directory / kind), directory / f"{kind}-{rank}.pt")
    dist.destroy_process_group()


def test_two_workers_train_as_one(untied_model: Path, tied_model: Path, tmp_path: Path) -> None:
    """Full weights, untied and tied, and adapters; one start of the workers, the slow part, for all."""
    grpo = GRPOSettings(kl_weight=0.1)
    configs = {
        "untied": learner_settings(untied_model, grpo=grpo),
        "tied": learner_settings(tied_model, grpo=grpo),
        "lora": learner_settings(untied_model, lora=True, grpo=grpo),
    }
    mp.spawn(run_rank, args=(2, tmp_path, configs), nprocs=2)  # pyright: ignore[reportPrivateImportUsage]
    for kind, config in configs.items():
        one = train(config, tmp_path / f"{kind}-alone")
        two, other = (torch.load(tmp_path / f"{kind}-{rank}.pt", weights_only=False) for rank in range(2))
        for ours, theirs, same in zip(one.metrics, two.metrics, other.metrics, strict=True):
            assert {**theirs, "seconds": 0} == {**same, "seconds": 0}
            assert {**theirs, "seconds": 0} == pytest.approx({**ours, "seconds": 0}, rel=1e-4, abs=1e-5)
        for ours, theirs in zip(one.scores, two.scores, strict=True):
            np.testing.assert_allclose(theirs, ours, atol=1e-5)
        for ours, theirs, same in zip(one.probes, two.probes, other.probes, strict=True):
            assert theirs.sequence_ids == same.sequence_ids == ours.sequence_ids
            for rank in (theirs, same):
                torch.testing.assert_close(rank.norms, ours.norms, rtol=1e-3, atol=1e-6)
                torch.testing.assert_close(gini(rank.norms), gini(ours.norms), rtol=1e-3, atol=0)
                torch.testing.assert_close(rank.losses, ours.losses, rtol=1e-4, atol=0)
                torch.testing.assert_close(rank.hidden, ours.hidden, rtol=1e-3, atol=1e-4)
            for mine, alone in zip(theirs.logprobs, ours.logprobs, strict=True):
                np.testing.assert_allclose(mine, alone, atol=1e-5)
        check_same(two.weighed, one.weighed)
        check_same(two.weighed, other.weighed)
        for read in zip(two.reading.entropies, other.reading.entropies, one.reading.entropies, strict=True):
            np.testing.assert_allclose(read[0], read[1], atol=1e-6)
            np.testing.assert_allclose(read[0], read[2], atol=1e-4)
        assert one.weights.keys() == two.weights.keys()
        for name, tensor in one.weights.items():
            torch.testing.assert_close(two.weights[name], tensor, atol=3e-5, rtol=0)
        assert (tmp_path / kind / "model" / "model.safetensors").is_file()


STAGES: tuple[Stage, ...] = ("sft", "mixed", "mixed", "grpo")
Staged = tuple[list[dict[str, float]], dict[str, torch.Tensor]]


@mock.patch.object(worker_module, "cores_of_worker", return_value=1)
def staged(config: LearnerSettings, directory: Path, killed_after: int, _: mock.Mock) -> Staged:
    """Metrics of all stages and the weights at their end; where asked, another worker goes on from a checkpoint, while
    whose writing the first took one more step. On one core: another number would change the bits."""
    torch.set_num_threads(1)
    worker, metrics = LearnerWorker(config), []
    for number, stage in enumerate(STAGES):
        if killed_after and number == killed_after:
            worker.begin_save(checkpoint := directory / f"killed-{killed_after}")
            worker.train(stage, *tables_of_step(99))
            worker.end_save()
            worker = LearnerWorker(config)
            worker.restore(checkpoint)
        metrics.append({**worker.train(stage, *tables_of_step(number)), "seconds": 0.0})
    return metrics, published(worker.policy)


def run_staged(rank: int, world: int, directory: Path, config: LearnerSettings) -> None:
    dist.init_process_group("gloo", init_method=f"file://{directory}/rendezvous", rank=rank, world_size=world)
    runs = [staged(config, directory, killed_after) for killed_after in (0, 1, 2)]
    torch.save(runs, directory / f"staged-{rank}.pt")
    dist.destroy_process_group()


def test_two_workers_restart_at_a_stage_and_go_on_from_a_checkpoint(untied_model: Path, tmp_path: Path) -> None:
    """Killed at the end of a stage or within one, they are the run that was not, to the bit; and they are as one."""
    grpo = GRPOSettings(minibatches=2, epochs=2, betas=(0.9, 0.999), entropy_weight=0.01)
    config = learner_settings(untied_model, grpo=grpo)
    config = config.model_copy(update={"optimizer": config.optimizer.model_copy(update={"lr": 1e-3})})
    mp.spawn(run_staged, args=(2, tmp_path, config), nprocs=2)  # pyright: ignore[reportPrivateImportUsage]
    first, other = (torch.load(tmp_path / f"staged-{rank}.pt", weights_only=False) for rank in range(2))
    (metrics, weights), *resumed = first
    for after, weights_after in resumed:
        assert after == metrics
        assert all(torch.equal(weights_after[name], weights[name]) for name in weights)
    assert [run[0] for run in other] == [metrics] * 3
    alone, weights_alone = staged(config, tmp_path, 0)
    for ours, theirs in zip(alone, metrics, strict=True):
        assert theirs == pytest.approx(ours, rel=2e-3, abs=1e-4)
    for name, tensor in weights_alone.items():
        torch.testing.assert_close(weights[name], tensor, atol=3e-4, rtol=0)
