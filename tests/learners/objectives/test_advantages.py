"""Every advantage against a plain loop over groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from learners.objectives import advantages, credit

reward = st.sampled_from([0.0, 0.25, 0.5, 1.0, -1.0])
rollouts = st.lists(st.tuples(reward, st.integers(0, 3)), min_size=1, max_size=12).map(
    lambda rows: [(value, group % len(rows)) for value, group in rows]
)


def normalised(values: list[float]) -> list[float]:
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return [0.0 if spread < 1e-6 else (value - float(np.mean(values))) / (spread + 1e-6) for value in values]


def by_group(values: Sequence[float], groups: list, rule: Callable[[list[float]], list[float]]) -> list[float]:
    result = [0.0] * len(values)
    for group in set(groups):
        members = [index for index, other in enumerate(groups) if other == group]
        for index, value in zip(members, rule([values[i] for i in members]), strict=True):
            result[index] = value
    return result


def tensors(rows: list[tuple[float, int]]) -> tuple[Tensor, Tensor]:
    return torch.tensor([value for value, _ in rows]), torch.tensor([group for _, group in rows])


def centred(values: list[float]) -> list[float]:
    return [value - float(np.mean(values)) for value in values]


def leave_one_out(values: list[float]) -> list[float]:
    others = [values[:i] + values[i + 1 :] for i in range(len(values))]
    return [value - float(np.mean(rest)) if rest else 0.0 for value, rest in zip(values, others, strict=True)]


@pytest.mark.parametrize(
    ("function", "twin"),
    [(advantages.grpo, normalised), (advantages.dr_grpo, centred), (advantages.rloo, leave_one_out)],
    ids=["grpo", "dr_grpo", "rloo"],
)
@given(rows=rollouts)
@settings(max_examples=80, deadline=None)
def test_group_advantages_equal_their_plain_form(function: Callable, twin: Callable, rows: list) -> None:
    expected = by_group([value for value, _ in rows], [group for _, group in rows], twin)
    np.testing.assert_allclose(function(*tensors(rows)).numpy(), expected, atol=1e-9)


@given(rollouts)
@settings(max_examples=80, deadline=None)
def test_zero_variance_groups_are_found_and_have_no_advantage(rows: list) -> None:
    rewards, groups = tensors(rows)
    flat = advantages.zero_variance(rewards, groups)
    for index, (_, group) in enumerate(rows):
        assert flat[index].item() == (len({value for value, other in rows if other == group}) == 1)
    for function in (advantages.grpo, advantages.dr_grpo, advantages.rloo):
        assert function(rewards, groups)[flat].abs().sum() < 1e-9


@given(
    st.lists(st.lists(st.tuples(reward, st.integers(0, 2)), min_size=1, max_size=4), min_size=1, max_size=5),
    st.floats(0, 1),
    st.floats(0, 2),
)
@settings(max_examples=60, deadline=None)
def test_gigpo_adds_the_comparison_at_common_states(episodes: list, gamma: float, step_weight: float) -> None:
    groups = [index % 2 for index in range(len(episodes))] if len(episodes) > 1 else [0]
    totals = [sum(value for value, _ in turns) for turns in episodes]
    outcome = by_group(totals, groups, normalised)
    flat = [(index, turn) for index, turns in enumerate(episodes) for turn in range(len(turns))]
    returns = [
        sum(gamma ** (later - turn) * episodes[index][later][0] for later in range(turn, len(episodes[index])))
        for index, turn in flat
    ]
    steps = by_group(returns, [(groups[index], episodes[index][turn][1]) for index, turn in flat], normalised)
    expected = [outcome[index] + step_weight * step for (index, _), step in zip(flat, steps, strict=True)]

    turns = credit.Turns(
        rewards=torch.tensor([episodes[index][turn][0] for index, turn in flat], dtype=torch.float64),
        episodes=torch.tensor([index for index, _ in flat]),
        states=torch.tensor([episodes[index][turn][1] for index, turn in flat]),
    )
    by_episode = advantages.grpo(torch.tensor(totals, dtype=torch.float64), torch.tensor(groups))[turns.episodes]
    actual = by_episode + step_weight * credit.gigpo(turns, torch.tensor(groups), gamma)
    np.testing.assert_allclose(actual.numpy(), expected, atol=1e-6)


def test_worked_examples() -> None:
    rewards, groups = torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.zeros(4, dtype=torch.int64)
    assert advantages.grpo(rewards, groups).tolist() == pytest.approx([1.5, -0.5, -0.5, -0.5], abs=1e-5)
    assert advantages.dr_grpo(rewards, groups).tolist() == [0.75, -0.25, -0.25, -0.25]
    assert advantages.rloo(rewards, groups).tolist() == pytest.approx([1, -1 / 3, -1 / 3, -1 / 3])
    returns = credit.discounted_returns(torch.tensor([0.0, 0.0, 1.0]), torch.zeros(3, dtype=torch.int64), 0.5)
    assert returns.tolist() == [0.25, 0.5, 1.0]
