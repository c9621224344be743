"""Scalarisers: from the named rewards of a batch of rollouts to one scalar reward and advantage each.

One protocol, one class each. Those that look at nothing but rewards are here; `learners.rewards.conductor_head` has the
one whose reward weights are learned.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from learners.objectives import advantages
from learners.rewards import maths
from learners.rewards.maths import Normalisation
from learners.rewards.reward_batch import RewardBatch
from learners.rewards.reward_settings import RewardSettings
from trajectories.errors import UserError

Advantage = Callable[[Tensor, Tensor], Tensor]
"""(scalar rewards [B], groups [B]) -> advantages [B]: `advantages.grpo`, `dr_grpo` or `rloo`."""


@dataclass(frozen=True, slots=True)
class Scalarised:
    """What a scalariser makes of a batch.

    Attributes:
        rewards: float64 [B], the scalar reward.
        advantages: float64 [B], what the policy is trained with.
        reward_weights: float64 [B, K], the weight of every channel in `rewards`.
        version: version of the reward weights; counts the updates of what gave them, 0 where they never change.
        choices: int64 [B], the channel that was sampled for each rollout; None where none is.
        probabilities: float64 [B, K], what it was sampled from.
    """

    rewards: Tensor
    advantages: Tensor
    reward_weights: Tensor
    version: int = 0
    choices: Tensor | None = None
    probabilities: Tensor | None = None


class Scalariser(Protocol):
    """Turns named rewards into one scalar reward and one advantage per rollout."""

    def __call__(self, batch: RewardBatch) -> Scalarised:
        """Raises UserError: the batch lacks what the scalariser needs."""
        ...


@dataclass(frozen=True, slots=True)
class Single:
    """One channel as it is, less the penalty: plain GRPO. The other channels are only logged."""

    outcome: str
    advantage: Advantage = advantages.grpo

    def __call__(self, batch: RewardBatch) -> Scalarised:
        reward_weights = torch.tensor([float(name == self.outcome) for name in batch.names], dtype=torch.float64)
        scalar = batch.penalised(batch.outcome)
        return Scalarised(scalar, self.advantage(scalar, batch.groups), reward_weights.expand_as(batch.rewards))


@dataclass(frozen=True, slots=True)
class Uniform:
    """All channels alike."""

    normalise: Normalisation = maths.rank_normalise
    advantage: Advantage = advantages.grpo

    def __call__(self, batch: RewardBatch) -> Scalarised:
        reward_weights = torch.full_like(batch.rewards, 1.0 / len(batch.names))
        return weighted(batch, reward_weights, self.normalise, self.advantage)


@dataclass(frozen=True, slots=True)
class Static:
    """Given reward weights, the same for every rollout."""

    reward_weights: Mapping[str, float]
    normalise: Normalisation = maths.rank_normalise
    advantage: Advantage = advantages.grpo

    def __call__(self, batch: RewardBatch) -> Scalarised:
        return weighted(batch, given_reward_weights(self.reward_weights, batch), self.normalise, self.advantage)


@dataclass(frozen=True, slots=True)
class Random:
    """Reward weights drawn uniformly from the simplex for each rollout: what adaptive ones must beat.

    The draw is a function of seed and episode alone, so there is no state to save, and a resumed run draws the same.
    """

    seed: int = 0
    normalise: Normalisation = maths.rank_normalise
    advantage: Advantage = advantages.grpo

    def __call__(self, batch: RewardBatch) -> Scalarised:
        even = np.ones(len(batch.names))
        reward_weights = np.stack([episode_generator(self.seed, name).dirichlet(even) for name in batch.episode_ids])
        return weighted(batch, torch.from_numpy(reward_weights), self.normalise, self.advantage)


@dataclass(frozen=True, slots=True)
class GDPO:
    """Each channel normalised within its group, then the weighted sum, then normalised over the batch (2601.05242)."""

    reward_weights: Mapping[str, float] | None = None

    def __call__(self, batch: RewardBatch) -> Scalarised:
        reward_weights = given_reward_weights(
            self.reward_weights or dict.fromkeys(batch.names, 1.0 / len(batch.names)), batch
        )
        found = maths.gdpo(batch.rewards, reward_weights, batch.groups)
        return Scalarised(found, found, reward_weights)


def episode_generator(seed: int, episode_id: str) -> np.random.Generator:
    """The chance that belongs to one episode of a run, whoever asks and whenever."""
    digest = hashlib.blake2b(f"{seed} {episode_id}".encode(), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def weighted(batch: RewardBatch, reward_weights: Tensor, normalise: Normalisation, advantage: Advantage) -> Scalarised:
    """Normalised channels by reward weights [B, K], less the penalty, and the advantage of the sum."""
    scalar = batch.penalised(maths.scalarise(normalise(batch.rewards, batch.groups), reward_weights))
    return Scalarised(scalar, advantage(scalar, batch.groups), reward_weights)


def given_reward_weights(by_name: Mapping[str, float], batch: RewardBatch) -> Tensor:
    """float64 [B, K]. Raises UserError if a reward weight names no channel."""
    if unknown := [name for name in by_name if name not in batch.names]:
        raise UserError(
            f"reward channel {unknown[0]!r} has a weight but is missing in episode {batch.episode_ids[0]}; its "
            f"channels are {', '.join(batch.names)}: weigh only these in reward.weights"
        )
    row = torch.tensor([by_name.get(name, 0.0) for name in batch.names], dtype=torch.float64)
    return row.expand_as(batch.rewards)


def pure_scalariser(config: RewardSettings, seed: int, advantage: Advantage = advantages.grpo) -> Scalariser:
    """The scalariser that `config` names, unless it is the Conductor (`conductor_head.ConductorScalariser`)."""
    normalise = maths.NORMALISATIONS[config.normalisation]
    match config.scalariser:
        case "single":
            return Single(config.outcome, advantage)
        case "uniform":
            return Uniform(normalise, advantage)
        case "static":
            return Static(config.weights, normalise, advantage)
        case "random":
            return Random(seed, normalise, advantage)
        case "gdpo":
            return GDPO(config.weights or None)
        case "conductor":
            raise ValueError("the Conductor learns the reward weights: use conductor_head.ConductorScalariser")


ADVANTAGES: dict[str, Advantage] = {
    "grpo": advantages.grpo,
    "dr_grpo": advantages.dr_grpo,
    "rloo": advantages.rloo,
    "gigpo": advantages.grpo,
    "anchored": advantages.dr_grpo,
    "gae": advantages.dr_grpo,
    "graph": advantages.dr_grpo,
}
"""How scalar rewards of a group compare, by `GRPOSettings.advantage`. What some add for turns comes on top
(`learners.objectives.assign.STEP_ADVANTAGES`)."""


def channel_metrics(batch: RewardBatch) -> dict[str, float]:
    """For the log, per channel: mean, and spread (mean standard deviation within groups)."""
    metrics = {}
    for name, column in zip(batch.names, batch.rewards.unbind(1), strict=True):
        metrics[f"reward/{name}/mean"] = float(column.mean())
        metrics[f"reward/{name}/spread"] = float(advantages.group_std(column, batch.groups).mean())
    return metrics


def reward_weight_metrics(names: Sequence[str], scalarised: Scalarised) -> dict[str, float]:
    """For the log, per channel: mean weight; where channels were sampled also their shares, and the mean entropy as a
    share of its maximum."""
    metrics = {}
    for index, name in enumerate(names):
        metrics[f"reward/{name}/weight"] = float(scalarised.reward_weights[:, index].mean())
        if scalarised.choices is not None:
            metrics[f"reward/{name}/sampled"] = float((scalarised.choices == index).double().mean())
    if scalarised.probabilities is not None:
        metrics["reward/entropy"] = float(maths.normalised_entropy(scalarised.probabilities).mean())
    return metrics
