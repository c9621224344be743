"""Weighing by the Conductor's parameters: probabilities, draws, weights and meta-rewards."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learners.objectives import advantages
from learners.rewards import maths
from learners.rewards.conductor_head import (
    FLOOR,
    ConductorHead,
    ConductorScalariser,
    floored_softmax,
    kind_metrics,
    probabilities,
)
from learners.rewards.reward_batch import RewardBatch
from learners.rewards.reward_settings import ConductorSettings
from learners.rewards.scalarisers import reward_weight_metrics
from trajectories.errors import UserError

CHANNELS, HIDDEN = ("success", "progress", "format"), 16
START = ConductorHead(torch.zeros(3, HIDDEN), torch.zeros(3), torch.ones(1), version=2)
"""Uniform weights."""
ALWAYS_PROGRESS = replace(START, bias=torch.tensor([0.0, 60.0, 0.0]))


def batch(seed: int = 0, groups: int = 2, size: int = 4) -> RewardBatch:
    generator = torch.Generator().manual_seed(seed)
    count = groups * size
    values = torch.rand(count, len(CHANNELS), generator=generator).double()
    return RewardBatch(
        names=CHANNELS,
        episode_ids=tuple(f"{seed}-{index}" for index in range(count)),
        rewards=values,
        groups=torch.arange(groups).repeat_interleave(size),
        outcome=values[:, 0],
        contexts=torch.randn(count, HIDDEN, generator=generator),
    )


def scalariser(head: ConductorHead, seed: int = 0, **settings: object) -> ConductorScalariser:
    return ConductorScalariser(head, ConductorSettings.model_validate(settings), advantages.grpo, seed)


@given(st.lists(st.lists(st.floats(-1e4, 1e4, width=32), min_size=4, max_size=4), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_probabilities_respect_the_floor_and_sum_to_one(logits: list[list[float]]) -> None:
    actual = floored_softmax(torch.tensor(logits, dtype=torch.float64))
    assert actual.min().item() >= FLOOR * (1 - 1e-12)
    np.testing.assert_allclose(actual.sum(1).numpy(), 1.0, atol=1e-12)
    scores = np.array(logits) - np.max(logits, axis=1, keepdims=True)
    softmax = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    np.testing.assert_allclose(actual.numpy(), 1e-4 + (1 - 4 * 1e-4) * softmax, atol=1e-12)


@pytest.mark.parametrize("signal", ["scalarised", "outcome"])
@pytest.mark.parametrize("weight_map", ["emphasis", "onehot", "uniform_boost"])
def test_rollouts_are_weighed_as_drawn_for_them(signal: str, weight_map: str) -> None:
    settings = {"meta_signal": signal, "weight_map": weight_map, "beta": 0.4, "baseline": "none"}
    rows, scalarise = batch(), scalariser(ALWAYS_PROGRESS, **settings)
    result = scalarise(rows)
    assert result.choices is not None and result.choices.tolist() == [1] * 8
    share, top = {"emphasis": (0.0, 1.0), "onehot": (0.0, 1.0), "uniform_boost": (0.2, 0.6)}[weight_map]
    torch.testing.assert_close(result.reward_weights[0], torch.tensor([share, top, share]).double(), atol=2e-4, rtol=0)
    ranks = maths.rank_normalise(rows.rewards, rows.groups)
    expected = advantages.grpo((result.reward_weights * ranks).sum(1), rows.groups)
    torch.testing.assert_close(result.advantages, expected)
    meta = expected if signal == "scalarised" else expected * advantages.grpo(rows.outcome, rows.groups)
    assert torch.equal(scalarise.meta_rewards(rows, torch.arange(8), result.advantages), meta)
    assert result.version == 2
    assert reward_weight_metrics(CHANNELS, result)["reward/progress/sampled"] == 1.0


def test_probabilities_are_logged_by_kind_of_task() -> None:
    rows = replace(batch(groups=2, size=2), kinds=("heat", "cool", "heat", "cool"))
    chances = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]).double()
    assert kind_metrics(rows, chances) == {
        "conductor/success/weight/cool": 0.0,
        "conductor/progress/weight/cool": 0.25,
        "conductor/format/weight/cool": 0.75,
        "conductor/success/weight/heat": 0.75,
        "conductor/progress/weight/heat": 0.25,
        "conductor/format/weight/heat": 0.0,
    }
    taken = rows.take(torch.tensor([0, 2]))
    assert taken.kinds == ("heat", "heat") and kind_metrics(taken, chances[[0, 2]]) == {}, "one kind: the mean says all"
    assert kind_metrics(batch(), chances) == {}


def test_the_outcome_is_judged_against_the_mean_of_the_other_draws_of_the_group() -> None:
    """A numpy twin, with groups of several sizes; alone in its group a rollout has nothing to be compared with."""
    sizes = [4, 1, 3]
    rows = replace(
        batch(groups=4, size=2), groups=torch.tensor([g for g, size in enumerate(sizes) for _ in range(size)])
    )
    earned = torch.randn(8, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    found = scalariser(START, meta_signal="outcome").meta_rewards(rows, torch.arange(8), earned).numpy()
    product = (earned * advantages.grpo(rows.outcome, rows.groups)).numpy()
    numbers = rows.groups.numpy()
    for row in range(8):
        others = [product[at] for at in range(8) if numbers[at] == numbers[row] and at != row]
        assert found[row] == pytest.approx(product[row] - np.mean(others) if others else 0.0)
    for group in range(3):
        assert found[numbers == group].sum() == pytest.approx(0.0)
    published = scalariser(START, meta_signal="scalarised").meta_rewards(rows, torch.arange(8), earned)
    assert torch.equal(published, earned), "an advantage has its group's mean taken out already"


def test_what_said_nothing_is_compared_under_its_groups_mean_weights_and_draws_nothing() -> None:
    """A numpy twin: rollouts 2, 4 and 5 of two groups of four have no context."""
    all_rows, rows = batch(), torch.tensor([0, 1, 3, 6, 7])
    assert all_rows.contexts is not None
    scalarise = scalariser(START, meta_signal="outcome")
    found = scalarise.drawn(all_rows, rows, all_rows.contexts[rows])
    whole = scalarise(all_rows)
    assert found.choices is not None and whole.choices is not None
    assert torch.equal(found.choices, whole.choices[rows]), "a draw belongs to its episode"
    assert torch.equal(found.reward_weights, whole.reward_weights[rows])
    weights = whole.reward_weights.numpy().copy()
    weights[2], weights[4:6] = weights[[0, 1, 3]].mean(0), weights[6:8].mean(0)
    scalar = (weights * maths.rank_normalise(all_rows.rewards, all_rows.groups).numpy()).sum(1)
    expected = advantages.grpo(torch.from_numpy(scalar), all_rows.groups)[rows]
    torch.testing.assert_close(found.rewards, torch.from_numpy(scalar)[rows])
    torch.testing.assert_close(found.advantages, expected)
    product = expected * advantages.grpo(all_rows.outcome, all_rows.groups)[rows]
    earned = scalarise.meta_rewards(all_rows, rows, found.advantages)
    torch.testing.assert_close(earned, advantages.rloo(product, torch.tensor([0, 0, 0, 1, 1])))


def test_at_the_start_all_channels_weigh_alike_and_the_drawn_one_more() -> None:
    result = scalariser(START, beta=0.5)(batch())
    assert result.choices is not None and result.probabilities is not None
    expected = torch.full((8, 3), 1 / 6).double()
    expected[range(8), result.choices] += 0.5
    torch.testing.assert_close(result.reward_weights, expected)
    assert reward_weight_metrics(CHANNELS, result)["reward/entropy"] == pytest.approx(1.0)


def test_a_draw_belongs_to_seed_and_episode_whatever_else_is_in_the_batch() -> None:
    rows = batch(groups=3)
    whole = scalariser(START)(rows)
    part = scalariser(START)(rows.take(torch.arange(4, 8)))
    assert whole.choices is not None and part.choices is not None
    assert torch.equal(whole.choices[4:8], part.choices)
    assert torch.equal(whole.advantages[4:8], part.advantages)
    other = scalariser(START, seed=1)(rows).choices
    assert other is not None and not torch.equal(whole.choices, other)


def test_draws_follow_the_probabilities() -> None:
    head = replace(START, bias=torch.tensor([0.0, 1.0, 2.0]))
    rows = [batch(seed, groups=10) for seed in range(100)]
    drawn = torch.cat([choices for row in rows if (choices := scalariser(head)(row).choices) is not None])
    shares = torch.bincount(drawn, minlength=3) / len(drawn)
    torch.testing.assert_close(shares.double(), probabilities(head, torch.zeros(1, HIDDEN))[0], atol=0.03, rtol=0)


def test_contexts_must_be_there_for_every_episode() -> None:
    rows = batch()
    assert rows.contexts is not None
    for contexts, count in ((None, 0), (rows.contexts[:-1], 7)):
        with pytest.raises(UserError, match=f"has {count} contexts for 8 episodes, the first of which is 0-0"):
            scalariser(START)(replace(rows, contexts=contexts))
    with pytest.raises(UserError, match=r"contexts are \[2, 5\], this Conductor reads \[n, 16\]"):
        probabilities(START, torch.zeros(2, 5))
