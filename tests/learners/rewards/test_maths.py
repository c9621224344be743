"""Reward channels: what is refused, and every function against a plain loop."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from learners.rewards import maths
from trajectories.errors import UserError

IDS = ("e-0", "e-1", "e-2", "e-3")

value = st.sampled_from([0.0, 0.25, 0.5, 1.0, -1.0, 40.0])
rollouts = st.lists(st.tuples(value, value, st.integers(0, 2)), min_size=1, max_size=10).map(
    lambda rows: [(first, second, group % len(rows)) for first, second, group in rows]
)
quick = settings(max_examples=80, deadline=None)


def matrix(rows: list) -> torch.Tensor:
    return torch.tensor([row[:2] for row in rows], dtype=torch.float64)


def group_numbers(rows: list) -> torch.Tensor:
    return torch.tensor([row[2] for row in rows])


def by_group(rows: list, rule: Callable[[list[float]], list[float]]) -> np.ndarray:
    """`rule` on each of the two channels in each group, [B, 2]."""
    result = np.zeros((len(rows), 2))
    for channel in range(2):
        for group in {row[2] for row in rows}:
            members = [index for index, row in enumerate(rows) if row[2] == group]
            result[members, channel] = rule([rows[index][channel] for index in members])
    return result


def ranks(values: list[float]) -> list[float]:
    """Average ranks from 0, over the highest."""
    order = sorted(values)
    average = [np.mean([place for place, other in enumerate(order) if other == value]) for value in values]
    return [float(rank) / (len(values) - 1) if len(values) > 1 else 0.5 for rank in average]


def standardised(values: list[float]) -> list[float]:
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return [0.0 if spread < 1e-6 else (value - float(np.mean(values))) / (spread + 1e-6) for value in values]


@given(rollouts)
@quick
def test_ranks_equal_their_plain_form(rows: list) -> None:
    actual = maths.rank_normalise(matrix(rows), group_numbers(rows))
    np.testing.assert_allclose(actual.numpy(), by_group(rows, ranks), atol=1e-12)


@given(rollouts)
@quick
def test_every_channel_has_the_same_mean_rank_in_every_group(rows: list) -> None:
    actual, groups = maths.rank_normalise(matrix(rows), group_numbers(rows)), group_numbers(rows)
    for group in groups.unique():
        np.testing.assert_allclose(actual[groups == group].mean(0).numpy(), 0.5, atol=1e-12)


@given(rollouts, st.floats(0.01, 100), st.floats(-100, 100))
@quick
def test_ranks_do_not_know_a_channels_scale(rows: list, factor: float, shift: float) -> None:
    groups = group_numbers(rows)
    scaled = maths.rank_normalise(matrix(rows) * factor + shift, groups)
    torch.testing.assert_close(scaled, maths.rank_normalise(matrix(rows), groups))


@given(rollouts)
@quick
def test_z_scores_equal_their_plain_form(rows: list) -> None:
    actual = maths.z_score(matrix(rows), group_numbers(rows))
    np.testing.assert_allclose(actual.numpy(), by_group(rows, standardised), atol=1e-9)


@given(rollouts, st.floats(0, 2), st.floats(0, 2))
@quick
def test_gdpo_normalises_channels_then_the_batch(rows: list, first: float, second: float) -> None:
    parts = by_group(rows, standardised)
    expected = standardised(list(first * parts[:, 0] + second * parts[:, 1]))
    weights = torch.tensor([first, second], dtype=torch.float64)
    actual = maths.gdpo(matrix(rows), weights, group_numbers(rows))
    np.testing.assert_allclose(actual.numpy(), expected, atol=1e-6)


def test_gdpo_does_not_grow_with_the_number_of_rewards() -> None:
    column = torch.tensor([[0.0], [1.0], [2.0], [4.0]])
    groups = torch.zeros(4, dtype=torch.int64)
    one = maths.gdpo(column, torch.ones(1), groups)
    torch.testing.assert_close(maths.gdpo(column.expand(4, 5), torch.ones(5), groups), one, atol=1e-5, rtol=0)


PROBABILITIES = st.lists(st.floats(0.01, 1), min_size=2, max_size=5).map(lambda row: np.array(row) / np.sum(row))


@pytest.mark.parametrize("name", maths.REWARD_WEIGHT_MAPS)
@given(row=PROBABILITIES, beta=st.floats(0, 1), data=st.data())
@quick
def test_weight_maps_give_weights_and_equal_their_plain_form(name: str, row: np.ndarray, beta: float, data) -> None:
    choice = data.draw(st.integers(0, len(row) - 1))
    chosen = np.eye(len(row))[choice]
    expected = {
        "emphasis": (1 - beta) * row + beta * chosen,
        "onehot": chosen,
        "uniform_boost": (1 - beta) / len(row) + beta * chosen,
    }[name]
    actual = maths.REWARD_WEIGHT_MAPS[name](torch.from_numpy(row)[None], torch.tensor([choice]), beta)[0]
    np.testing.assert_allclose(actual.numpy(), expected, atol=1e-12)
    assert actual.sum().item() == pytest.approx(1.0)
    assert actual.min() >= 0


@given(rollouts, st.data())
@quick
def test_a_channel_constant_in_its_group_contributes_nothing(rows: list, data) -> None:
    """Whatever the constant is, and whatever weights the rollouts have drawn."""
    groups = group_numbers(rows)
    weights = torch.tensor(
        data.draw(st.lists(st.tuples(*[st.floats(0.01, 1)] * 3), min_size=len(rows), max_size=len(rows)))
    ).double()
    weights = weights / weights.sum(1, keepdim=True)
    constant = torch.full((len(rows), 1), data.draw(st.floats(-1e3, 1e3)), dtype=torch.float64)
    live = maths.rank_normalise(matrix(rows), groups)
    expected = 0.5 + (weights[:, :2] * (live - 0.5)).sum(1)
    actual = maths.scalarise(maths.rank_normalise(torch.cat([matrix(rows), constant], 1), groups), weights)
    torch.testing.assert_close(actual, expected)

    z = maths.scalarise(maths.z_score(torch.cat([matrix(rows), constant], 1), groups), weights)
    torch.testing.assert_close(z, maths.scalarise(maths.z_score(matrix(rows), groups), weights[:, :2]))


def test_rounding_does_not_rank() -> None:
    almost = torch.tensor([[0.3], [0.1 + 0.2], [0.3]], dtype=torch.float64)
    assert almost[1] != almost[0]
    assert maths.rank_normalise(almost, torch.zeros(3, dtype=torch.int64)).unique().tolist() == [0.5]


@given(PROBABILITIES)
@quick
def test_entropy_is_a_share_of_its_maximum(row: np.ndarray) -> None:
    actual = maths.normalised_entropy(torch.from_numpy(row)[None])[0].item()
    assert actual == pytest.approx(-(row * np.log(row)).sum() / np.log(len(row)))
    assume(np.ptp(row) > 0.01)
    assert actual < 1


def test_the_matrix_takes_channels_by_name() -> None:
    channels = {"a": [1.0, 2.0, 3.0, 4.0], "unused": [float("nan")] * 4, "b": [0.0, 0.0, 0.0, 1.0]}
    assert maths.reward_matrix(channels, ("b", "a"), IDS).tolist() == [[0, 1], [0, 2], [0, 3], [1, 4]]


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        ({"format": [1.0] * 4}, "'score' is missing in episode e-0; its channels are format"),
        ({}, "'score' is missing in episode e-0; its channels are none"),
        ({"score": [1.0, 0.0]}, "'score' has 2 values for 4 episodes: episode e-2 has none"),
        ({"score": [1.0] * 6}, "'score' has 6 values for 4 episodes: the last 2 belong to no episode after e-3"),
        ({"score": [1.0, float("nan"), 0.0, 0.0]}, "'score' is nan in episode e-1"),
        ({"score": [1.0, 0.0, 0.0, float("inf")]}, "'score' is inf in episode e-3"),
    ],
    ids=["missing", "none", "too short", "too long", "nan", "infinite"],
)
def test_a_bad_channel_is_named_with_its_episode(channels: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        maths.reward_matrix(channels, ("score",), IDS)
    assert "\n" not in str(caught.value)


def test_no_channel_is_an_error() -> None:
    with pytest.raises(UserError, match=r"name at least one in reward\.channels"):
        maths.reward_matrix({"a": [1.0] * 4}, (), IDS)


def test_worked_examples() -> None:
    groups = torch.zeros(4, dtype=torch.int64)
    assert maths.rank_normalise(torch.tensor([[5.0], [7.0], [7.0], [9.0]]), groups).flatten().tolist() == [
        0.0,
        0.5,
        0.5,
        1.0,
    ]


def test_a_single_channel_has_no_entropy_and_two_alike_have_all_of_it() -> None:
    assert maths.normalised_entropy(torch.ones(3, 1)).tolist() == [0.0, 0.0, 0.0]
    assert maths.normalised_entropy(torch.full((2, 2), 0.5)).tolist() == [1.0, 1.0]
