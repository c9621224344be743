"""A learner step as optimiser steps: minibatches, epochs, and what begins anew with a stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from learners.learner_settings import GRPOSettings, LearnerSettings, RampSettings, SFTSettings
from learners.objectives.assign import pending_assignments
from learners.objectives.minibatches import dealt
from learners.workers import worker as worker_module
from learners.workers.worker import LearnerWorker, Stage
from tests.learners.rewards.test_weigher import scalariser, single_sequence_episodes
from tests.learners.samples import learner_settings, make_sequences, make_tables, published, save, tables_of_step
from trajectories import schema
from trajectories.types import Assignment, Route, Sequence

SCHEDULE: tuple[Stage, ...] = ("sft", "sft", "mixed", "mixed", "grpo", "grpo")


@pytest.fixture(autouse=True)
def _one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """SFT steps would take every core, for matrices this small at a loss."""
    monkeypatch.setattr(worker_module, "cores_of_worker", lambda: 1)


def weights(worker: LearnerWorker) -> dict[str, torch.Tensor]:
    return published(worker.policy)


def assert_same_weights(ours: LearnerWorker, theirs: LearnerWorker) -> None:
    other = weights(theirs)
    assert all(torch.equal(tensor, other[name]) for name, tensor in weights(ours).items())


def differ(ours: LearnerWorker, theirs: LearnerWorker) -> bool:
    other = weights(theirs)
    return any(not torch.equal(tensor, other[name]) for name, tensor in weights(ours).items())


def to_grpo(sequences: list[Sequence], advantage: Callable[[int], float]) -> tuple[pa.Table, pa.Table]:
    assignments = [
        Assignment(sequence.sequence_id, Route.GRPO, (advantage(index),), 1.0, 0.0, {})
        for index, sequence in enumerate(sequences)
    ]
    return schema.sequences_to_table(sequences), schema.assignments_to_table(assignments)


def trained(config: LearnerSettings, count: int = len(SCHEDULE)) -> tuple[LearnerWorker, list[dict[str, float]]]:
    """A worker after the first steps of the schedule, and their metrics."""
    worker = LearnerWorker(config)
    return worker, [step(worker, number) for number in range(count)]


def step(worker: LearnerWorker, number: int) -> dict[str, float]:
    metrics = worker.train(SCHEDULE[number], *tables_of_step(number))
    return {**metrics, "seconds": 0.0}


def settings_of(
    model: Path, lora: bool = False, restart: bool = True, grpo: GRPOSettings | None = None
) -> LearnerSettings:
    fading = SFTSettings(weight=RampSettings(start=1.0, end=0.2, steps=3))
    config = learner_settings(model, lora=lora, grpo=grpo, sft=fading)
    return config.model_copy(update={"optimizer": config.optimizer.model_copy(update={"restart_at_stage": restart})})


def test_two_minibatches_are_two_steps_on_the_halves(untied_model: Path) -> None:
    cut = LearnerWorker(learner_settings(untied_model, grpo=GRPOSettings(minibatches=2)))
    plain = LearnerWorker(learner_settings(untied_model))
    sequences = make_sequences(16)
    tables = to_grpo(sequences, lambda index: (-1.0) ** index)
    ours = cut.train("grpo", *tables)
    theirs = []
    for half in dealt({s.group_id for s in sequences}, 2, (0, 0, 0)):
        rows = [index for index, sequence in enumerate(sequences) if sequence.group_id in half]
        theirs.append(plain.train("grpo", tables[0].take(rows), tables[1].take(rows)))
    assert_same_weights(cut, plain)
    assert (cut.policy.steps, cut.grpo.steps, ours["optimiser_steps"]) == (2, 1, 2.0)
    for name in ("grad_norm", "lr", "grpo/loss", "grpo/entropy", "grpo/objective", "update_signal"):
        assert ours[name] == pytest.approx(sum(half[name] for half in theirs) / 2)
    assert ours["grpo/tokens"] == sum(half["grpo/tokens"] for half in theirs)


def test_later_minibatches_stay_near_the_weights_before_the_step(untied_model: Path) -> None:
    """For tokens that those weights sampled it is the same policy; for older ones it is not."""
    grpo = GRPOSettings(minibatches=2, clip_low=1e-4, clip_high=1e-4)
    decoupled = grpo.model_copy(update={"proximal": "batch"})
    reader = LearnerWorker(learner_settings(untied_model))
    stale = make_sequences(16)
    scores = reader.score(schema.sequences_to_table(stale))
    fresh = [replace(sequence, logprobs=logprobs) for sequence, logprobs in zip(stale, scores, strict=True)]
    for sequences, alike in ((fresh, True), (stale, False)):
        plain, ours = (LearnerWorker(learner_settings(untied_model, grpo=config)) for config in (grpo, decoupled))
        tables = to_grpo(sequences, lambda index: (-1.0) ** index)
        theirs, found = plain.train("grpo", *tables), ours.train("grpo", *tables)
        assert theirs["grpo/clip_fraction"] > 0, "the second minibatch has moved"
        assert (found["grpo/loss"] == pytest.approx(theirs["grpo/loss"], rel=1e-4)) is alike


def test_demonstrations_of_a_mixed_step_train_in_every_minibatch(
    untied_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = LearnerWorker(learner_settings(untied_model, grpo=GRPOSettings(minibatches=2)))
    played, shown = make_sequences(8), make_sequences(18, 1)[10:]
    sequences, assignments = to_grpo(played, lambda index: (-1.0) ** index)
    imitated = [Assignment(s.sequence_id, Route.SFT, (), 0.0, 1.0, {}) for s in shown]
    taken = []
    monkeypatch.setattr(
        worker.policy, "step", lambda terms, weigher: taken.append([len(t.examples) for t in terms]) or {}
    )
    worker.train(
        "mixed",
        [sequences, schema.sequences_to_table(shown)],
        [assignments, schema.assignments_to_table(imitated)],
    )
    assert [grpo for grpo, _ in taken] == [4, 4]
    assert sum(sft for _, sft in taken) == 8 and all(sft for _, sft in taken)


def test_an_epoch_more_is_a_walk_in_another_order(untied_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = LearnerWorker(learner_settings(untied_model, grpo=GRPOSettings(minibatches=4, epochs=2)))
    taken = []
    monkeypatch.setattr(
        worker.policy,
        "step",
        lambda terms, weigher: taken.append({e.sequence.group_id for e in terms[0].examples}) or {},
    )
    worker.train("grpo", *to_grpo(make_sequences(32), lambda index: 1.0))
    assert [len(groups) for groups in taken] == [2] * 8, "no group is split"
    assert set().union(*taken[:4]) == set().union(*taken[4:]) and taken[:4] != taken[4:]


def test_clipping_stops_what_further_epochs_would_move(untied_model: Path) -> None:
    """Without momentum and decay the weights stand still once every ratio is above the band."""

    def after(epochs: int, clip_high: float) -> tuple[LearnerWorker, dict[str, float]]:
        grpo = GRPOSettings(epochs=epochs, clip_high=clip_high, betas=(0.0, 0.0))
        config = learner_settings(untied_model, grpo=grpo)
        optimizer = config.optimizer.model_copy(update={"weight_decay": 0.0, "lr": 1e-3})
        worker = LearnerWorker(config.model_copy(update={"optimizer": optimizer}))
        scored = worker.score(schema.sequences_to_table(make_sequences(1)))
        (sequence,) = make_sequences(1)
        sequence.logprobs[:] = scored[0]
        return worker, worker.train("grpo", *to_grpo([sequence], lambda index: 1.0))

    short, _ = after(25, 0.28)
    long, metrics = after(35, 0.28)
    assert_same_weights(short, long)
    assert 1.28 < metrics["grpo/ratio"] < 4.0 and 0 < metrics["grpo/clip_fraction"] < 1
    assert differ(after(25, 1e9)[0], after(35, 1e9)[0])


def test_the_rates_of_grpo_are_apart_from_those_of_sft(untied_model: Path) -> None:
    config = learner_settings(untied_model, grpo=GRPOSettings(betas=(0.5, 0.75)))
    worker = LearnerWorker(config)
    used = []
    for stage in ("sft", "grpo", "mixed"):
        worker.train(stage, *make_tables(make_sequences(6)))
        used.append(worker.policy._optimizer.adam.param_groups[0]["betas"])
    assert used == [config.optimizer.betas, (0.5, 0.75), (0.5, 0.75)]


def test_grpo_after_sft_is_grpo_on_a_model_that_sft_made(untied_model: Path, tmp_path: Path) -> None:
    """Nothing but the weights passes from one stage to the next."""
    staged, _ = trained(settings_of(untied_model), 2)
    staged.save_pretrained(tmp_path)
    fresh = LearnerWorker(settings_of(tmp_path))
    kept, _ = trained(settings_of(untied_model, restart=False), 2)
    staged.sft.take(), staged.grpo.take(), kept.grpo.take()
    assert_same_weights(staged, fresh)
    for number in (4, 5):
        assert step(staged, number) == step(fresh, number)
        step(kept, number)
    assert_same_weights(staged, fresh)
    assert differ(staged, kept)


@pytest.mark.parametrize(
    ("restart", "lrs", "sft_weights"),
    [
        (True, [0.5, 1, 0.5, 1, 0.5, 1], [1.0, 0.733, 1.0, 0.733]),
        (False, [0.5, 1, 1, 1, 1, 1], [1.0, 0.733, 0.467, 0.2]),
    ],
)
def test_warm_up_and_schedules_begin_anew_with_a_stage(
    untied_model: Path, restart: bool, lrs: list[float], sft_weights: list[float]
) -> None:
    worker, log = trained(settings_of(untied_model, restart=restart))
    assert [metrics["lr"] for metrics in log] == pytest.approx([1e-2 * scale for scale in lrs])
    assert [m["sft/weight"] for m in log if "sft/weight" in m] == pytest.approx(sft_weights, abs=1e-3)
    assert worker.policy.steps == (2 if restart else 6)


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("restart", [False, True])
def test_a_run_that_was_killed_anywhere_is_the_run_that_was_not(
    untied_model: Path, lora: bool, restart: bool, tmp_path: Path
) -> None:
    grpo = GRPOSettings(minibatches=2, epochs=2, betas=(0.9, 0.999), entropy_weight=0.01)
    config = settings_of(untied_model, lora, restart, grpo)
    whole, log = trained(config)
    saving = LearnerWorker(config)
    for number in range(len(SCHEDULE)):
        save(saving, tmp_path / str(number))
        assert step(saving, number) == log[number], "writing a checkpoint changes nothing"
    for killed in (0, 2, 3, 5):
        resumed = LearnerWorker(config)
        resumed.restore(tmp_path / str(killed))
        assert [step(resumed, number) for number in range(killed, len(SCHEDULE))] == log[killed:]
        assert_same_weights(resumed, whole)


def test_a_worker_goes_back_to_a_checkpoint_of_an_earlier_stage(untied_model: Path, tmp_path: Path) -> None:
    config = settings_of(untied_model)
    worker, _ = trained(config, 1)
    save(worker, tmp_path / "checkpoint")
    for number in range(1, 5):
        step(worker, number)
    worker.restore(tmp_path / "checkpoint")
    assert [step(worker, number) for number in range(1, len(SCHEDULE))] == trained(config)[1][1:]


def test_the_conductor_weighs_the_groups_of_each_minibatch(untied_model: Path) -> None:
    rows, batch = single_sequence_episodes(16)
    table = schema.sequences_to_table(rows)
    found = []
    for minibatches in (1, 4):
        worker = LearnerWorker(learner_settings(untied_model, grpo=GRPOSettings(minibatches=minibatches)))
        arguments = (table, pending_assignments(table, batch), batch, scalariser())
        metrics, weighed = worker.train_weighing("grpo", *arguments)
        assert metrics["optimiser_steps"] == minibatches and weighed is not None
        found.append(weighed)
    assert torch.equal(found[0].rows, found[1].rows), "every group was weighed once"
    first = dealt({row.group_id for row in rows}, 4, (0, 0, 0))[0]
    seen = torch.tensor([row.group_id in first for row in rows])
    assert torch.allclose(found[0].contexts[seen], found[1].contexts[seen], atol=1e-5)
    assert not torch.allclose(found[0].contexts[~seen], found[1].contexts[~seen], atol=1e-5), (
        "by the weights of its turn"
    )
