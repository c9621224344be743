"""Group-relative advantages, as pure functions on tensors.

B is the number of rollouts, `groups` int64 [B] says which rollouts answered the same task, in [0, B). Everything is
computed in float64. A group in which all rewards are equal has advantage 0 everywhere, and `zero_variance` finds it.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-6
"""Added to standard deviations; also the spread below which a group counts as having no variance."""


def group_mean(values: Tensor, groups: Tensor) -> Tensor:
    """Mean of each rollout's group, float64 [B]."""
    values = values.double()
    sums = torch.zeros_like(values).index_add(0, groups, values)
    return (sums / _group_size(groups).clamp(min=1.0))[groups]


def group_std(values: Tensor, groups: Tensor) -> Tensor:
    """Sample standard deviation (n - 1) of each rollout's group, float64 [B]; 0 for a group of one."""
    squares = (values.double() - group_mean(values, groups)) ** 2
    sums = torch.zeros_like(squares).index_add(0, groups, squares)
    return (sums / (_group_size(groups) - 1.0).clamp(min=1.0)).sqrt()[groups]


def zero_variance(rewards: Tensor, groups: Tensor) -> Tensor:
    """True for rollouts whose whole group has the same reward, bool [B]: nothing to learn from by comparison."""
    return group_std(rewards, groups) < EPSILON


def grpo(rewards: Tensor, groups: Tensor) -> Tensor:
    """(r - mean) / (std + eps) within the group, float64 [B] (arXiv 2402.03300).

    Rewards 1, 0, 0, 0 of one group: mean 0.25, std 0.5, so 1.5, -0.5, -0.5, -0.5.
    """
    centred = dr_grpo(rewards, groups)
    spread = group_std(rewards, groups)
    return torch.where(spread < EPSILON, torch.zeros_like(centred), centred / (spread + EPSILON))


def dr_grpo(rewards: Tensor, groups: Tensor) -> Tensor:
    """r - mean within the group, float64 [B] (arXiv 2503.20783): no bias towards easy or hard tasks.

    Rewards 1, 0, 0, 0: 0.75, -0.25, -0.25, -0.25.
    """
    return rewards.double() - group_mean(rewards, groups)


def rloo(rewards: Tensor, groups: Tensor) -> Tensor:
    """r - mean of the *other* rollouts of the group, float64 [B] (arXiv 2402.14740).

    It equals n / (n - 1) times `dr_grpo`. Rewards 1, 0, 0, 0: 1, -1/3, -1/3, -1/3.
    """
    size = _group_size(groups)[groups]
    return dr_grpo(rewards, groups) * size / (size - 1.0).clamp(min=1.0)


def _group_size(groups: Tensor) -> Tensor:
    ones = torch.ones(len(groups), dtype=torch.float64, device=groups.device)
    return torch.zeros_like(ones).index_add(0, groups, ones)
