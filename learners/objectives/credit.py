"""Credit for single turns: by how much a turn was better than what its group did, as pure functions on tensors.

B rollouts of M turns; `groups` int64 [B] says which rollouts played the same task. Every estimator gives one advantage
a turn, float64 [M], and compares within a group only. None but `gigpo` divides by a standard deviation: where a group
hardly differs, that blows up trivial differences.
"""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass

import torch
from torch import Tensor

from learners.objectives import advantages


@dataclass(frozen=True, slots=True)
class Turns:
    """The M turns of B rollouts: those of a rollout together and in order of play.

    Attributes:
        rewards: float [M].
        episodes: int64 [M], index in [0, B) of the rollout of each turn.
        states: int64 [M], equal for equal states of the environment *before* the action.
    """

    rewards: Tensor
    episodes: Tensor
    states: Tensor


def discounted_returns(rewards: Tensor, episodes: Tensor, gamma: float) -> Tensor:
    """R_t = r_t + gamma R_{t+1} within each episode, float64 [M], M turns in order of play.

    Rewards 0, 0, 1 of one episode with gamma 0.5: 0.25, 0.5, 1.
    """
    returns = rewards.double().clone()
    for turn in range(len(returns) - 2, -1, -1):
        if episodes[turn] == episodes[turn + 1]:
            returns[turn] += gamma * returns[turn + 1]
    return returns


def nodes(turns: Turns, groups: Tensor) -> Tensor:
    """Number of (group, state before the turn), int64 [M]: turns with equal numbers stood at the same place."""
    places = torch.stack([groups[turns.episodes], turns.states], dim=1)
    return torch.unique(places, dim=0, return_inverse=True)[1]


def owners(turns: Turns, groups: Tensor) -> Tensor:
    """Number of the group of each turn, int64 [M], in [0, M)."""
    return torch.unique(groups[turns.episodes], return_inverse=True)[1]


def gigpo(turns: Turns, groups: Tensor, gamma: float) -> Tensor:
    """Step advantages (arXiv 2505.10978, eq. 7 and 8): discounted returns, normalised as `advantages.grpo` does among
    the group's visits of the same state, so two rollouts that part at a state are compared there. A state seen once
    gives 0.

    Two rollouts part at a common state and earn 1 in one and 3 turns, gamma 0.5: returns 1 and 0.25, std 0.53, so 0.71
    and -0.71 there.
    """
    return advantages.grpo(discounted_returns(turns.rewards, turns.episodes, gamma), nodes(turns, groups))


def anchored(turns: Turns, groups: Tensor, gamma: float) -> Tensor:
    """Discounted return minus the mean return of the group at the same state: `gigpo` without its division. A state
    seen once gives 0.

    Two rollouts part at a common state and earn 1 in one and 3 turns, gamma 0.5: returns 1 and 0.25, so 0.375 and
    -0.375 there.
    """
    return advantages.dr_grpo(discounted_returns(turns.rewards, turns.episodes, gamma), nodes(turns, groups))


def gae(turns: Turns, groups: Tensor, gamma: float, decay: float) -> Tensor:
    """Generalised advantage over a grouped value proxy (after GAGPO, arXiv 2605.13217).

        V(s) = mean discounted return of the group's visits of s
        delta_t = r_t + gamma V(s_{t+1}) - V(s_t),    A_t = delta_t + gamma decay A_{t+1}

    V after the last turn is 0. With decay 1 it is `anchored`; with less, what the group earned from the next state on
    replaces what this rollout happened to earn. The paper's normalisation is left out.

    Two rollouts from one state, rewards (0, 1) and (0, 0) by way of a second common state, gamma 1: V is 0.5 at both,
    so decay 0 gives 0, 0.5 and 0, -0.5: the first turns, which were equal, are not told apart.
    """
    returns = discounted_returns(turns.rewards, turns.episodes, gamma)
    values = advantages.group_mean(returns, nodes(turns, groups))
    found = torch.zeros_like(returns)
    for turn in range(len(returns) - 1, -1, -1):
        goes_on = turn + 1 < len(returns) and bool(turns.episodes[turn] == turns.episodes[turn + 1])
        later = gamma * (values[turn + 1] + decay * found[turn + 1]) if goes_on else 0.0
        found[turn] = turns.rewards[turn].double() + later - values[turn]
    return found


def graph(turns: Turns, groups: Tensor, solved: Tensor) -> Tensor:
    """By how much a turn shortened the way to the goal on the graph of all states that the group visited (after
    GraphGPO, arXiv 2605.26684), minus the group's mean.

    Nodes are states, edges are turns, the goal lies behind the last turn of a solved rollout, and d(s) is the fewest
    turns from s to it. A state from which no way to the goal was seen lies one turn beyond the group's farthest. The
    last turn of a rollout that was not solved leads nowhere known and shortens nothing; so does every turn of a group
    without a solved rollout.

    One rollout goes a, b, goal, another a, c, a, and stops: d is 2, 1 at a, b and 3 at c. Shortened by 1, 1 and
    -1, 1, 0, mean 0.4.

    Args:
        solved: bool [B].
    """
    places = nodes(turns, groups).tolist()
    episodes = turns.episodes.tolist()
    numbers = owners(turns, groups)
    group_of = numbers.tolist()
    following: list[int | None] = []
    for turn, episode in enumerate(episodes):
        goes_on = turn + 1 < len(episodes) and episodes[turn + 1] == episode
        goal = -1 - group_of[turn] if bool(solved[episode]) else None
        following.append(places[turn + 1] if goes_on else goal)
    distance = _distances(places, following)
    farthest: defaultdict[int, int] = defaultdict(int)
    for place, owner in zip(places, group_of, strict=True):
        farthest[owner] = max(farthest[owner], distance.get(place, 0))
    shortened = torch.zeros(len(places), dtype=torch.float64)
    for turn, (place, target, owner) in enumerate(zip(places, following, group_of, strict=True)):
        if target is not None and farthest[owner]:
            beyond = farthest[owner] + 1
            shortened[turn] = distance.get(place, beyond) - distance.get(target, beyond)
    return advantages.dr_grpo(shortened, numbers)


def _distances(places: list[int], following: list[int | None]) -> dict[int, int]:
    """Fewest turns from each place to its group's goal (a negative number), where a way was seen; breadth first."""
    before: defaultdict[int, set[int]] = defaultdict(set)
    for place, target in zip(places, following, strict=True):
        if target is not None:
            before[target].add(place)
    distance = {goal: 0 for goal in before if goal < 0}
    queue = deque(distance)
    while queue:
        target = queue.popleft()
        for place in before[target]:
            if place not in distance:
                distance[place] = distance[target] + 1
                queue.append(place)
    return distance
