"""Every loss against a plain loop over tokens."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learners.objectives import losses

logprob = st.floats(-8, 0)
token = st.tuples(logprob, logprob, st.floats(-3, 3), st.integers(0, 3))
tokens = st.lists(token, min_size=1, max_size=12)


def columns(
    rows: list[tuple[float, float, float, int]],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    logprobs, behaviour, advantages, sequence = zip(*rows, strict=True)
    as_float = [torch.tensor(column, dtype=torch.float64) for column in (logprobs, behaviour, advantages)]
    return *as_float, torch.tensor(sequence)  # pyright: ignore[reportReturnType]


@given(tokens, st.floats(0.05, 0.5), st.floats(0.05, 0.5), st.floats(1.5, 4))
@settings(max_examples=100, deadline=None)
def test_policy_loss_is_the_clipped_truncated_surrogate(rows: list, low: float, high: float, cap: float) -> None:
    logprobs, behaviour, advantages, _ = columns(rows)
    ratio = losses.token_ratio(logprobs, behaviour)
    actual = losses.policy_loss(ratio, advantages, low, high, cap)
    for loss, (new, old, advantage, _) in zip(actual.tolist(), rows, strict=True):
        r = math.exp(new - old)
        surrogate = min(min(r, cap) * advantage, min(max(r, 1 - low), 1 + high) * advantage)
        assert loss == pytest.approx(-surrogate, rel=1e-9, abs=1e-12)


@given(tokens)
@settings(max_examples=100, deadline=None)
def test_the_gradient_is_the_truncated_importance_weight_unless_clipped(rows: list) -> None:
    logprobs, behaviour, advantages, _ = columns(rows)
    logprobs.requires_grad_()
    ratio = losses.token_ratio(logprobs, behaviour)
    losses.policy_loss(ratio, advantages, 0.2, 0.28, 2.0).sum().backward()
    clipped = losses.clipped_tokens(ratio, advantages, 0.2, 0.28)
    assert logprobs.grad is not None
    for gradient, (new, old, advantage, _), without in zip(logprobs.grad.tolist(), rows, clipped.tolist(), strict=True):
        expected = 0.0 if without else -min(math.exp(new - old), 2.0) * advantage
        assert gradient == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(tokens)
@settings(max_examples=100, deadline=None)
def test_the_sequence_ratio_is_the_geometric_mean_of_token_ratios(rows: list) -> None:
    logprobs, behaviour, _, sequence = columns(rows)
    ratios = losses.sequence_ratio(logprobs, behaviour, sequence * 7 - 3)
    for value, (_, _, _, number) in zip(ratios.tolist(), rows, strict=True):
        differences = [new - old for new, old, _, other in rows if other == number]
        assert value == pytest.approx(math.exp(np.mean(differences)), rel=1e-9)


def test_every_token_of_a_sequence_is_trained_by_its_own_advantage() -> None:
    """GSPO-token: the ratio is the sequence's, the gradient a token's; with one advantage for all it is GSPO's."""
    logprobs = torch.tensor([-1.0, -2.0, -0.5, -1.5], dtype=torch.float64, requires_grad=True)
    behaviour = torch.tensor([-1.1, -1.9, -0.5, -1.2], dtype=torch.float64)
    ratio = math.exp((0.1 - 0.1 + 0.0 - 0.3) / 4)

    def gradient(advantages: list[float]) -> list[float]:
        ratios = losses.sequence_ratio(logprobs, behaviour, torch.zeros(4, dtype=torch.int64))
        (ratios * torch.tensor(advantages)).mean().backward()
        assert logprobs.grad is not None
        found, logprobs.grad = logprobs.grad.tolist(), None
        return found

    assert gradient([1.0, 1.0, -1.0, 0.0]) == pytest.approx([ratio / 4, ratio / 4, -ratio / 4, 0.0])
    assert gradient([1.0] * 4) == pytest.approx([ratio / 4] * 4)


def test_an_episode_counts_as_one_in_however_many_sequences_it_was_told() -> None:
    """Two episodes, one of a turn and one of five: as transcripts, and with a window for each turn."""
    for kind in ("sequence", "constant"):
        whole = [losses.aggregation(kind, tokens, tokens, 10) for tokens in (4, 20)]  # pyright: ignore
        windows = [losses.aggregation(kind, 4, tokens, 10) for tokens in (4, *[20] * 5)]  # pyright: ignore
        assert [factor for factor, _ in windows] == [whole[0][0], *[whole[1][0]] * 5]
        assert sum(count for _, count in windows) == pytest.approx(sum(count for _, count in whole)) == 2


@given(tokens)
@settings(max_examples=100, deadline=None)
def test_k3_is_never_negative_and_zero_for_equal_policies(rows: list) -> None:
    logprobs, reference, _, _ = columns(rows)
    values = losses.k3_kl(logprobs, reference)
    assert (values >= 0).all()
    expected = [math.exp(b - a) - (b - a) - 1 for a, b, _, _ in rows]
    np.testing.assert_allclose(values.numpy(), expected, rtol=1e-9, atol=1e-12)
    assert (losses.k3_kl(logprobs, logprobs) == 0).all()


def test_worked_examples() -> None:
    def loss(ratio: float, advantage: float) -> float:
        return losses.policy_loss(torch.tensor([ratio]), torch.tensor([advantage]), 0.2, 0.28, 2.0).item()

    assert losses.sft_loss(torch.tensor([math.log(0.5)])).item() == pytest.approx(0.693, abs=1e-3)
    assert loss(3.0, -1.0) == pytest.approx(2.0)
    assert loss(3.0, 1.0) == pytest.approx(-1.28)
    kl = losses.k3_kl(torch.tensor([math.log(0.5)]), torch.tensor([math.log(0.25)]))
    assert kl.item() == pytest.approx(0.193, abs=1e-3)
    assert losses.inside(torch.tensor([0.4, 1.0, 6.0]), (0.5, 5.0)).tolist() == [False, True, False]


@given(st.lists(st.lists(st.floats(-5, 5), min_size=1, max_size=6), min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_aggregation_gives_the_published_means(rows: list[list[float]]) -> None:
    def mean(kind: str) -> float:
        parts = [losses.aggregation(kind, len(row), len(row), 10) for row in rows]  # pyright: ignore
        return sum(factor * sum(row) for (factor, _), row in zip(parts, rows, strict=True)) / sum(n for _, n in parts)

    assert mean("token") == pytest.approx(np.mean([x for row in rows for x in row]))
    assert mean("sequence") == pytest.approx(np.mean([np.mean(row) for row in rows]))
    assert mean("constant") == pytest.approx(np.mean([sum(row) / 10 for row in rows]))
