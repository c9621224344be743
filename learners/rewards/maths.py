"""Reward channels as pure functions on tensors: checks, normalisation, and maps from a choice to reward weights.

B is the number of rollouts, K the number of reward channels, `groups` int64 [B] says which rollouts answered the same
task, in [0, B). A matrix of rewards is [B, K]; everything is computed in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from learners.objectives import advantages
from trajectories.errors import UserError


def reward_matrix(channels: Mapping[str, Sequence[float]], names: Sequence[str], episode_ids: Sequence[str]) -> Tensor:
    """The channels `names`, in this order, as float64 [B, K].

    Args:
        channels: one value an episode by channel; channels that `names` leaves out are not looked at.
    Raises:
        UserError: a channel is missing, has more or fewer values than there are episodes, or one that is not finite.
    """
    if not names:
        raise UserError(f"no reward channel for episode {_first(episode_ids)}: name at least one in reward.channels")
    columns = []
    for name in names:
        if name not in channels:
            raise UserError(
                f"reward channel {name!r} is missing in episode {_first(episode_ids)}; its channels are "
                f"{', '.join(channels) or 'none'}: name only these in reward.channels and reward.outcome"
            )
        if len(channels[name]) != len(episode_ids):
            raise UserError(_wrong_length(name, len(channels[name]), episode_ids))
        if (row := next((at for at, value in enumerate(channels[name]) if value is None), None)) is not None:
            raise UserError(
                f"reward channel {name!r} is missing in episode {episode_ids[row]}, whose environment does not have "
                "it: name only channels that all environments of the run have in reward.channels and reward.outcome"
            )
        column = torch.as_tensor(channels[name], dtype=torch.float64)
        if not column.isfinite().all():
            row = int((~column.isfinite()).nonzero()[0, 0])
            raise UserError(
                f"reward channel {name!r} is {float(column[row])} in episode {episode_ids[row]}: "
                "a channel must give a finite number for every episode"
            )
        columns.append(column)
    return torch.stack(columns, dim=1)


def rank_normalise(rewards: Tensor, groups: Tensor) -> Tensor:
    """Share of the other rollouts of its group that a rollout beats, ties counted half, float64 [B, K] in [0, 1].

    These are average ranks, scaled: values 5, 7, 7, 9 give 0, 0.5, 0.5, 1. Every channel then has the mean 0.5 in every
    group, whatever its scale (docs/rewards.md says what goes wrong otherwise). Values closer than `advantages.EPSILON`
    tie, so that rounding does not rank; a channel that is constant in a group, and a group of one, give 0.5.
    """
    same = (groups[:, None] == groups[None, :]).double()
    others = same.sum(1, keepdim=True) - 1.0
    beaten = torch.stack([_beaten(column, same) for column in rewards.double().unbind(1)], dim=1)
    return torch.where(others > 0, beaten / others.clamp(min=1.0), 0.5)


def z_score(rewards: Tensor, groups: Tensor) -> Tensor:
    """(r - mean) / std of each channel within the group, float64 [B, K]; 0 where a channel is constant."""
    return torch.stack([advantages.grpo(column, groups) for column in rewards.unbind(1)], dim=1)


def batch_normalise(values: Tensor) -> Tensor:
    """(x - mean) / (std + eps) over all rollouts, float64 [B]; 0 if all are equal."""
    return advantages.grpo(values, torch.zeros(len(values), dtype=torch.int64, device=values.device))


def gdpo(rewards: Tensor, reward_weights: Tensor, groups: Tensor) -> Tensor:
    """Advantages of GDPO, float64 [B] (arXiv 2601.05242): each reward normalised within its group, then the weighted
    sum, then normalised over the batch, so that its size does not grow with the number of rewards.

    Sums of raw rewards hide differences: (1, 0) and (0, 1) have the same sum; here each reward keeps its own say.

    Args:
        reward_weights: float [K], or [B, K] where they differ by rollout.
    """
    return batch_normalise(scalarise(z_score(rewards, groups), reward_weights))


def scalarise(rewards: Tensor, reward_weights: Tensor) -> Tensor:
    """The scalar reward of each rollout, sum over k of w_k r_k, float64 [B].

    With ranks and reward weights that sum to 1, a channel constant in a group has no say in the comparison: it adds
    w_k / 2 in place of what the others would have on average, and the result is 1/2 + sum over the others of
    w (r - 1/2).

    Args:
        reward_weights: float [K], or [B, K] where they differ by rollout.
    """
    return (rewards.double() * reward_weights.double()).sum(1)


def emphasis(probabilities: Tensor, choices: Tensor, beta: float) -> Tensor:
    """(1 - beta) pi + beta onehot(a), float64 [B, K]: all channels by their probability, the sampled one more. Ours,
    not the paper's.

    Args:
        probabilities: [B, K], each row sums to 1.
        choices: int64 [B], the sampled channel.
    """
    return (1.0 - beta) * probabilities.double() + beta * one_hot(choices, probabilities.shape[1])


def onehot(probabilities: Tensor, choices: Tensor, beta: float) -> Tensor:
    """The sampled channel alone, float64 [B, K]; `beta` has no say."""
    return one_hot(choices, probabilities.shape[1]).double()


def uniform_boost(probabilities: Tensor, choices: Tensor, beta: float) -> Tensor:
    """(1 - beta) / K + beta onehot(a), float64 [B, K]: all channels alike, the sampled one more."""
    return emphasis(torch.full_like(probabilities, 1.0 / probabilities.shape[1]), choices, beta)


RewardWeightMap = Callable[[Tensor, Tensor, float], Tensor]
REWARD_WEIGHT_MAPS: dict[str, RewardWeightMap] = {
    "emphasis": emphasis,
    "onehot": onehot,
    "uniform_boost": uniform_boost,
}
"""From what the Conductor sampled to the reward weights that a rollout is trained with; rows sum to 1."""

Normalisation = Callable[[Tensor, Tensor], Tensor]
NORMALISATIONS: dict[str, Normalisation] = {
    "rank": rank_normalise,
    "z_score": z_score,
    "none": lambda rewards, groups: rewards.double(),
}


def normalised_entropy(probabilities: Tensor) -> Tensor:
    """Entropy of each row of [B, K] as a share of its maximum log K, float64 [B]; 1 is uniform, 0 one channel only."""
    count = probabilities.shape[1]
    if count < 2:
        return torch.zeros(len(probabilities), dtype=torch.float64)
    return torch.special.entr(probabilities.double()).sum(1) / torch.tensor(count, dtype=torch.float64).log()


def _beaten(column: Tensor, same: Tensor) -> Tensor:
    """How many rollouts of its group each beats, ties half, [B]; itself not counted."""
    ahead = column[:, None] - column[None, :]
    wins = (ahead > advantages.EPSILON).double() + 0.5 * (ahead.abs() <= advantages.EPSILON)
    return (wins * same).sum(1) - 0.5


def _wrong_length(name: str, count: int, episode_ids: Sequence[str]) -> str:
    where = (
        f"episode {episode_ids[count]} has none"
        if count < len(episode_ids)
        else f"the last {count - len(episode_ids)} belong to no episode after {_first(episode_ids[-1:])}"
    )
    return f"reward channel {name!r} has {count} values for {len(episode_ids)} episodes: {where}; give one each"


def _first(episode_ids: Sequence[str]) -> str:
    return episode_ids[0] if episode_ids else "(none)"
