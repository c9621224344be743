"""Advantages that workers find, in the pass that trains or in one before it, are those that a plain pass would give."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from learners.learner_settings import GRPOSettings
from learners.objectives import advantages
from learners.objectives.assign import completed_assignments, pending_assignments, scalarised_assignments
from learners.rewards.conductor_head import ConductorHead, ConductorScalariser
from learners.rewards.maths import rank_normalise
from learners.rewards.reward_batch import RewardBatch
from learners.rewards.reward_settings import ConductorSettings
from learners.rewards.weigher import Weighed
from learners.workers.worker import LearnerWorker
from tests.learners.samples import learner_settings, make_sequences
from trajectories import schema
from trajectories.types import Sequence, Turn

HIDDEN = 32


def scalariser(context_pass: str = "training") -> ConductorScalariser:
    generator = torch.Generator().manual_seed(5)
    head = ConductorHead(torch.randn(3, HIDDEN, generator=generator), torch.zeros(3), torch.ones(1), version=4)
    settings = ConductorSettings.model_validate({"context_pass": context_pass})
    return ConductorScalariser(head, settings, advantages.grpo, seed=1)


def rewards_of(episodes: tuple[str, ...], groups: tuple[int, ...], seed: int = 0) -> RewardBatch:
    values = torch.rand(len(episodes), 3, generator=torch.Generator().manual_seed(seed)).double()
    return RewardBatch(("a", "b", "c"), episodes, values, torch.tensor(groups), values[:, 0])


def single_sequence_episodes(count: int, seed: int = 0) -> tuple[list[Sequence], RewardBatch]:
    sequences = make_sequences(count, seed)
    return sequences, rewards_of(tuple(s.episode_id for s in sequences), tuple(i // 4 for i in range(count)), seed)


def windowed_episodes() -> tuple[list[Sequence], RewardBatch]:
    """Three sequences an episode, one a turn; two groups of two episodes, and a demonstration of no group."""
    rows = [
        replace(row, episode_id=f"e{index // 3}", turns=(Turn(1, 2, 0.1 * index, index % 2, True),))
        for index, row in enumerate(make_sequences(13))
    ]
    return rows, rewards_of(("e0", "e1", "e2", "e3"), (0, 0, 1, 1))


def states_of(model: Path, sequences: list[Sequence], episodes: tuple[str, ...]) -> torch.Tensor:
    """The final layer's state after the last token of each episode, by a plain forward pass each."""
    reference = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    last = {s.episode_id: torch.tensor(s.token_ids)[None].long() for s in sequences}
    with torch.no_grad():
        hidden = [reference(last[name], output_hidden_states=True).hidden_states[-1][0, -1] for name in episodes]
    return torch.stack(hidden)


@pytest.mark.parametrize("context_pass", ["training", "own"])
@pytest.mark.parametrize("kind", ["full weights", "lora"])
@pytest.mark.parametrize("advantage", ["grpo", "gigpo", "gae"])
@pytest.mark.parametrize("token_budget", [8, 64, 10_000])
def test_workers_weigh_as_a_plain_pass_does(
    untied_model: Path, kind: str, advantage: str, token_budget: int, context_pass: str
) -> None:
    grpo = GRPOSettings.model_validate({"advantage": advantage})
    config = learner_settings(untied_model, lora=kind == "lora", grpo=grpo, token_budget=token_budget)
    rows, batch = windowed_episodes() if advantage != "grpo" else single_sequence_episodes(8)
    table = schema.sequences_to_table(rows)

    two = LearnerWorker(config)
    contexts = states_of(untied_model, rows, batch.episode_ids)
    scalarised = scalariser()(replace(batch, contexts=contexts))
    known = scalarised_assignments(table, batch, scalarised, grpo)
    expected = two.train("grpo", table, known)

    one = LearnerWorker(config)
    pending = pending_assignments(table, batch)
    metrics, weighed = one.train_weighing("grpo", table, pending, batch, scalariser(context_pass))
    assert weighed is not None
    assert {**metrics, "seconds": 0} == pytest.approx({**expected, "seconds": 0}, rel=1e-4, abs=1e-5)
    for (name, ours), theirs in zip(one.policy.model.named_parameters(), two.policy.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3, msg=name)
    torch.testing.assert_close(weighed.contexts, contexts, atol=1e-5, rtol=1e-4)
    assert weighed.scalarised.choices is not None and scalarised.choices is not None
    assert torch.equal(weighed.scalarised.choices, scalarised.choices)
    complete = completed_assignments(pending, weighed.advantages, version=4)
    both = (schema.assignments_from_table(table) for table in (complete, known))
    for mine, reference in zip(*both, strict=True):
        assert (mine.sequence_id, mine.route) == (reference.sequence_id, reference.route)
        assert mine.advantages == pytest.approx(reference.advantages, abs=1e-5)


@pytest.mark.parametrize("token_budget", [8, 10_000])
@pytest.mark.parametrize("tokens", ["last", "mean"])
@pytest.mark.parametrize("layer", ["last", "first"])
def test_the_context_is_of_the_layer_and_the_tokens_that_the_settings_name(
    untied_model: Path, layer: str, tokens: str, token_budget: int
) -> None:
    rows, batch = single_sequence_episodes(8)
    table, plain = schema.sequences_to_table(rows), scalariser()
    named = ConductorSettings.model_validate({"context_layer": layer, "context_tokens": tokens})
    worker = LearnerWorker(learner_settings(untied_model, token_budget=token_budget))
    pending = pending_assignments(table, batch)
    _, weighed = worker.train_weighing("grpo", table, pending, batch, replace(plain, config=named))
    reference = AutoModelForCausalLM.from_pretrained(untied_model, dtype=torch.float32).eval()
    assert weighed is not None
    for sequence, context in zip(rows, weighed.contexts, strict=True):
        with torch.no_grad():
            hidden = reference(torch.tensor(sequence.token_ids)[None].long(), output_hidden_states=True).hidden_states
        states = hidden[-1 if layer == "last" else 1][0]
        expected = states[-1] if tokens == "last" else states.mean(0)
        torch.testing.assert_close(context, expected, atol=1e-5, rtol=1e-4)


def test_a_batch_that_is_read_before_it_trains_is_weighed_by_what_was_read(untied_model: Path) -> None:
    """Four optimiser steps move the policy; the contexts of all groups are by the weights before them."""
    rows, batch = single_sequence_episodes(8)
    table = schema.sequences_to_table(rows)
    grpo = GRPOSettings(proximal="batch", minibatches=2, epochs=2)
    worker = LearnerWorker(learner_settings(untied_model, grpo=grpo))
    metrics, weighed = worker.train_weighing("grpo", table, pending_assignments(table, batch), batch, scalariser())
    assert metrics["optimiser_steps"] == 4.0 and weighed is not None
    before = states_of(untied_model, rows, batch.episode_ids)
    torch.testing.assert_close(weighed.contexts, before, atol=1e-5, rtol=1e-4)
    assert weighed.rows.tolist() == list(range(8)), "each group once"


def test_in_a_pass_of_its_own_no_group_is_held(untied_model: Path) -> None:
    """Activations that wait for their backward pass, by what autograd has kept and not yet given back."""
    most = {kind: _most_held(untied_model, kind) for kind in ("training", "own")}
    assert most["own"] < 0.5 * most["training"], most


def _most_held(model: Path, context_pass: str) -> int:
    rows, batch = single_sequence_episodes(8)
    table = schema.sequences_to_table(rows)
    worker = LearnerWorker(learner_settings(model, token_budget=8))
    held, most = 0, 0

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal held, most
        held += tensor.nbytes
        most = max(most, held)
        return tensor

    def give_back(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal held
        held -= tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, give_back):
        pending = pending_assignments(table, batch)
        worker.train_weighing("grpo", table, pending, batch, scalariser(context_pass))
    return most


def test_demonstrations_train_beside_weighed_groups(untied_model: Path) -> None:
    """A mixed step: what is imitated needs no advantage and stays out of the groups."""
    rows, batch = single_sequence_episodes(8)
    shown = [
        replace(row, sequence_id=f"d{index}", episode_id=f"d{index}") for index, row in enumerate(make_sequences(3))
    ]
    table = schema.sequences_to_table([*rows, *shown])
    pending = schema.assignments_from_table(pending_assignments(table, batch))
    assignments = schema.assignments_to_table(
        replace(row, route="sft", ce_weight=1.0) if row.sequence_id.startswith("d") else row for row in pending
    )
    worker = LearnerWorker(learner_settings(untied_model))
    metrics, weighed = worker.train_weighing("mixed", table, assignments, batch, scalariser())
    assert (metrics["sft/sequences"], metrics["grpo/sequences"]) == (3.0, 8.0)
    assert weighed is not None and weighed.advantages.keys() == {row.sequence_id for row in rows}


def test_groups_in_which_nothing_varies_are_neither_trained_nor_told_to_the_conductor(untied_model: Path) -> None:
    rows, batch = single_sequence_episodes(8)
    batch.rewards[4:] = 0.5
    table = schema.sequences_to_table(rows)
    worker = LearnerWorker(learner_settings(untied_model))
    _, weighed = worker.train_weighing("grpo", table, pending_assignments(table, batch), batch, scalariser())
    assert weighed is not None and weighed.rows.tolist() == [0, 1, 2, 3]
    batch.rewards[:] = 0.5
    metrics, nothing = worker.train_weighing("grpo", table, pending_assignments(table, batch), batch, scalariser())
    assert nothing is None and metrics["trained_tokens"] == 0


def test_an_episode_that_said_nothing_counts_in_the_comparison_of_its_group(untied_model: Path) -> None:
    """In the first group one failed so; in the second all but the one that succeeded."""
    rows, batch = single_sequence_episodes(8)
    batch.rewards[2], batch.rewards[4:] = 0.0, torch.tensor([1.0, 0.0, 0.0, 0.0])[:, None].expand(4, 3)
    heard = [rows[at] for at in (0, 1, 3, 4)]
    table = schema.sequences_to_table(heard)
    worker = LearnerWorker(learner_settings(untied_model))
    _, weighed = worker.train_weighing("grpo", table, pending_assignments(table, batch), batch, scalariser())
    assert weighed is not None and weighed.rows.tolist() == [0, 1, 3, 4]
    assert weighed.advantages.keys() == {sequence.sequence_id for sequence in heard}
    weights = weighed.scalarised.reward_weights
    first = torch.stack([weights[0], weights[1], weights[:3].mean(0), weights[2]])
    alone = weights[3].expand(4, 3)
    ranks = rank_normalise(batch.rewards, batch.groups)
    expected = advantages.grpo((torch.cat([first, alone]) * ranks).sum(1), batch.groups)[weighed.rows]
    torch.testing.assert_close(weighed.scalarised.advantages, expected)
    assert expected[3] == pytest.approx(1.5, abs=1e-5), "better than three that failed"


def check_same(one: Weighed | None, other: Weighed | None) -> None:
    """Equal up to rounding; for runs on one and on several workers."""
    assert one is not None and other is not None
    assert torch.equal(one.rows, other.rows)
    torch.testing.assert_close(one.contexts, other.contexts, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(one.scalarised.advantages, other.scalarised.advantages, atol=1e-4, rtol=1e-3)
    assert one.advantages.keys() == other.advantages.keys()
    for name, by_turn in one.advantages.items():
        assert by_turn == pytest.approx(other.advantages[name], abs=1e-4)
