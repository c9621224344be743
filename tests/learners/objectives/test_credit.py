"""Credit for single turns: worked examples, numpy twins, and what must hold for any rollouts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learners.objectives import credit
from learners.objectives.credit import Turns, discounted_returns


def turns(*rollouts: list[tuple[float, int]]) -> Turns:
    """Rollouts as lists of (reward, state before)."""
    rows = [(number, reward, state) for number, rollout in enumerate(rollouts) for reward, state in rollout]
    episodes, rewards, states = zip(*rows, strict=True)
    return Turns(
        torch.tensor(rewards, dtype=torch.float64),
        torch.tensor(episodes, dtype=torch.int64),
        torch.tensor(states, dtype=torch.int64),
    )


@st.composite
def played(draw: st.DrawFn) -> tuple[Turns, torch.Tensor, torch.Tensor]:
    """(turns, groups, solved) of up to six rollouts in up to two groups over four states."""
    step = st.tuples(st.sampled_from([-0.5, 0.0, 0.25, 1.0]), st.integers(0, 3))
    rollouts = draw(st.lists(st.lists(step, min_size=1, max_size=6), min_size=1, max_size=6))
    groups = torch.tensor(draw(st.lists(st.integers(0, 1), min_size=len(rollouts), max_size=len(rollouts))))
    solved = torch.tensor(draw(st.lists(st.booleans(), min_size=len(rollouts), max_size=len(rollouts))))
    return turns(*rollouts), groups, solved


def test_where_two_rollouts_part_the_better_return_is_credited() -> None:
    one, other = [(1.0, 7)], [(0.0, 7), (0.0, 8), (1.0, 9)]
    found = credit.anchored(turns(one, other), torch.tensor([0, 0]), gamma=0.5)
    assert found.tolist() == [0.375, -0.375, 0.0, 0.0]


def test_equal_first_turns_are_not_told_apart_by_what_came_later() -> None:
    found = credit.gae(turns([(0.0, 1), (1.0, 2)], [(0.0, 1), (0.0, 2)]), torch.tensor([0, 0]), gamma=1.0, decay=0.0)
    assert found.tolist() == [0.0, 0.5, 0.0, -0.5]


def test_a_turn_towards_the_goal_earns_more_than_one_away_even_in_a_failure() -> None:
    won, lost = [(0.0, 1), (1.0, 2)], [(0.0, 1), (0.0, 3), (0.0, 1)]
    found = credit.graph(turns(won, lost), torch.tensor([0, 0]), torch.tensor([True, False]))
    assert found.tolist() == pytest.approx([0.6, 0.6, -1.4, 0.6, -0.4])


def test_the_graph_of_a_group_that_never_won_says_nothing() -> None:
    found = credit.graph(turns([(0.0, 1), (0.0, 2)], [(0.0, 1)]), torch.tensor([0, 0]), torch.tensor([False, False]))
    assert found.tolist() == [0.0, 0.0, 0.0]


def test_the_same_state_in_another_group_is_another_place() -> None:
    found = credit.anchored(turns([(1.0, 5)], [(0.0, 5)]), torch.tensor([0, 1]), gamma=1.0)
    assert found.tolist() == [0.0, 0.0]


def test_rollouts_that_ended_before_their_first_turn_are_credited_with_nothing() -> None:
    none = Turns(torch.zeros(0, dtype=torch.float64), torch.zeros(0).long(), torch.zeros(0).long())
    groups = torch.tensor([0, 0, 1])
    assert credit.anchored(none, groups, 0.9).tolist() == credit.gae(none, groups, 0.9, 0.5).tolist() == []
    assert credit.graph(none, groups, torch.tensor([False, False, False])).tolist() == []


@given(played(), st.floats(0, 1), st.floats(0, 1))
def test_gae_agrees_with_its_definition_in_numpy(
    played: tuple[Turns, torch.Tensor, torch.Tensor], gamma: float, decay: float
) -> None:
    turns, groups, _ = played
    found = credit.gae(turns, groups, gamma, decay).numpy()
    returns = discounted_returns(turns.rewards, turns.episodes, gamma).numpy()
    episodes, states = turns.episodes.numpy(), turns.states.numpy()
    owners = groups.numpy()[episodes]
    values = np.array([returns[(states == s) & (owners == g)].mean() for s, g in zip(states, owners, strict=True)])
    expected = np.zeros(len(returns))
    for t in reversed(range(len(returns))):
        more = t + 1 < len(returns) and episodes[t + 1] == episodes[t]
        delta = turns.rewards[t].item() + (gamma * values[t + 1] if more else 0.0) - values[t]
        expected[t] = delta + (gamma * decay * expected[t + 1] if more else 0.0)
    np.testing.assert_allclose(found, expected, atol=1e-9)


@given(played(), st.floats(0, 1))
def test_gae_without_decay_is_anchored_credit(played: tuple[Turns, torch.Tensor, torch.Tensor], gamma: float) -> None:
    turns, groups, _ = played
    torch.testing.assert_close(
        credit.gae(turns, groups, gamma, 1.0), credit.anchored(turns, groups, gamma), atol=1e-9, rtol=0
    )


@given(played())
def test_distances_on_the_graph_agree_with_relaxation_in_numpy(
    played: tuple[Turns, torch.Tensor, torch.Tensor],
) -> None:
    turns, groups, solved = played
    episodes, states = turns.episodes.numpy(), turns.states.numpy()
    owners = groups.numpy()[episodes]
    shortened = np.zeros(len(episodes))
    for group in set(owners):
        edges = []
        for t in np.flatnonzero(owners == group):
            more = t + 1 < len(episodes) and episodes[t + 1] == episodes[t]
            edges.append((t, states[t], states[t + 1] if more else ("goal" if solved[episodes[t]] else None)))
        distance = {"goal": 0.0} | {state: np.inf for _, state, _ in edges}
        for _ in range(len(edges) + 1):
            for _, state, target in edges:
                if target is not None:
                    distance[state] = min(distance[state], distance[target] + 1)
        finite = [d for d in distance.values() if np.isfinite(d)]
        beyond = max(finite) + 1
        for t, state, target in edges:
            if target is not None and max(finite) > 0:
                shortened[t] = min(distance[state], beyond) - min(distance[target], beyond)
    means = np.array([shortened[owners == owner].mean() for owner in owners])
    np.testing.assert_allclose(credit.graph(turns, groups, solved).numpy(), shortened - means, atol=1e-9)


@given(played())
def test_credit_within_a_group_does_not_depend_on_other_groups(
    played: tuple[Turns, torch.Tensor, torch.Tensor],
) -> None:
    turns, groups, solved = played
    for group in groups.unique():
        mine = torch.isin(turns.episodes, torch.nonzero(groups == group).squeeze(1))
        alone = Turns(turns.rewards[mine], turns.episodes[mine], turns.states[mine])
        torch.testing.assert_close(
            credit.graph(turns, groups, solved)[mine], credit.graph(alone, groups, solved), atol=1e-9, rtol=0
        )
