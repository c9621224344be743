"""Reward weights that the Conductor gives, as pure functions of its parameters: what learner workers need of it.

The network is trained by RLlib elsewhere (`learners.rewards.conductor_module`); its few numbers travel with every step,
so that a worker finds the advantages of its rollouts in the very pass that trains on them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from learners.objectives import advantages
from learners.rewards import maths
from learners.rewards.reward_batch import RewardBatch
from learners.rewards.reward_settings import ConductorSettings
from learners.rewards.scalarisers import Advantage, Scalarised, episode_generator, weighted
from trajectories.errors import UserError

FLOOR = 1e-4
"""Least probability of a channel: one that was given up can still be sampled, and come back."""


@dataclass(frozen=True, slots=True)
class ConductorHead:
    """The network's parameters after some updates.

    Attributes:
        weight: float32 [K, H].
        bias: float32 [K].
        temperature: float32 [1].
        version: updates that it has had.
    """

    weight: Tensor
    bias: Tensor
    temperature: Tensor
    version: int = 0


def log_probabilities(contexts: Tensor, weight: Tensor, bias: Tensor, temperature: Tensor) -> Tensor:
    """log pi(.|h), [n, K], of contexts h [n, H]: a floored softmax of (W norm(h) + b) / tau."""
    logits = F.linear(F.layer_norm(contexts, weight.shape[1:]), weight, bias) / temperature
    return floored_softmax(logits).log()


def floored_softmax(logits: Tensor) -> Tensor:
    """FLOOR + (1 - K FLOOR) softmax, [n, K]: every entry is at least FLOOR and each row sums to 1.

    Mixed with the uniform distribution, not clamped: clamping would cut the gradient of a channel at the floor.
    """
    return FLOOR + (1.0 - logits.shape[1] * FLOOR) * logits.softmax(1)


def probabilities(head: ConductorHead, contexts: Tensor) -> Tensor:
    """pi(.|h), the reward weights outside training, float64 [n, K] of contexts float32 [n, H]; each row sums to 1.

    Raises:
        UserError: contexts of another size.
    """
    if contexts.ndim != 2 or contexts.shape[1] != head.weight.shape[1]:
        raise UserError(
            f"contexts are {list(contexts.shape)}, this Conductor reads [n, {head.weight.shape[1]}]: "
            "give it the policy's own final states"
        )
    found = log_probabilities(contexts.detach().float().cpu(), head.weight, head.bias, head.temperature).double().exp()
    return found / found.sum(1, keepdim=True)


def kind_metrics(batch: RewardBatch, chances: Tensor) -> dict[str, float]:
    """For the log: mean probability of every channel by kind of task, of chances float64 [B, K].

    Empty where the batch has one kind only, of which the means over all speak.
    """
    kinds = sorted(set(batch.kinds))
    if len(kinds) < 2:
        return {}
    rows = {kind: torch.tensor([of == kind for of in batch.kinds]) for kind in kinds}
    return {
        f"conductor/{name}/weight/{kind}": float(chances[rows[kind], at].mean())
        for kind in kinds
        for at, name in enumerate(batch.names)
    }


@dataclass(frozen=True, slots=True)
class ConductorScalariser:
    """Reward weights that are learned: each rollout is trained under those sampled for its context.

    The draw is a function of seed and episode, so that it needs no state, and workers need not agree on an order.
    """

    head: ConductorHead
    config: ConductorSettings
    advantage: Advantage
    seed: int = 0

    def __call__(self, batch: RewardBatch) -> Scalarised:
        """Raises UserError: the batch has no contexts, or they do not fit."""
        if batch.contexts is None or len(batch.contexts) != len(batch.episode_ids):
            count = 0 if batch.contexts is None else len(batch.contexts)
            raise UserError(
                f"the Conductor has {count} contexts for {len(batch.episode_ids)} episodes, the first of which is "
                f"{batch.episode_ids[0]}: give the policy's final state after each"
            )
        return self.drawn(batch, torch.arange(len(batch.episode_ids)), batch.contexts)

    def drawn(self, batch: RewardBatch, rows: Tensor, contexts: Tensor) -> Scalarised:
        """Draw for the n rollouts that have a context, and compare them with all of the batch.

        One without a context said nothing before its end, so there is nothing to draw for it. It is compared under the
        mean of its group's reward weights: a failure counts, whatever it failed at.

        Args:
            rows: int64 [n], index in the batch of each rollout that has a context.
            contexts: float32 [n, H], of these.
        Returns:
            Rewards, advantages, reward weights and draws of these n.
        Raises:
            UserError: the contexts do not fit.
        """
        chances = probabilities(self.head, contexts)
        chance = torch.tensor([episode_generator(self.seed, batch.episode_ids[row]).random() for row in rows.tolist()])
        choices = (chances.cumsum(1) < chance[:, None]).sum(1).clamp(max=chances.shape[1] - 1)
        mine = maths.REWARD_WEIGHT_MAPS[self.config.weight_map](chances, choices, self.config.beta)
        result = weighted(batch, _of_all(mine, rows, batch.groups), maths.rank_normalise, self.advantage)
        return Scalarised(result.rewards[rows], result.advantages[rows], mine, self.head.version, choices, chances)

    def meta_rewards(self, batch: RewardBatch, rows: Tensor, earned: Tensor) -> Tensor:
        """What the choices for n rollouts of a batch are worth to the Conductor, float64 [n].

        The outcome alone would teach nothing: a rollout's outcome does not depend on the reward weights drawn for it
        afterwards. Its product with the advantage does: it is positive where these push the policy the way that
        the outcome would, and a policy-gradient step raises the outcome, to first order, by their sum. Its mean over a
        group says how well the channels serve, whichever was drawn; the baseline takes that out, so that a draw earns
        what it did better than the others' draws.

        Args:
            rows: int64 [n], index in the batch of each rollout that something was drawn for.
            earned: [n], their advantages under the sampled reward weights.
        """
        if self.config.meta_signal == "scalarised":
            return earned
        product = earned * self.advantage(batch.outcome, batch.groups)[rows]
        return advantages.rloo(product, batch.take(rows).groups) if self.config.baseline == "leave_one_out" else product


def _of_all(reward_weights: Tensor, rows: Tensor, groups: Tensor) -> Tensor:
    """Reward weights of all rollouts, [B, K]: those [n, K] of `rows` int64 [n], and for any other the mean of these in
    its group."""
    sums = reward_weights.new_zeros(len(groups), reward_weights.shape[1]).index_add(0, groups[rows], reward_weights)
    counts = torch.bincount(groups[rows], minlength=len(groups)).clamp(min=1)
    found = (sums / counts[:, None])[groups]
    found[rows] = reward_weights
    return found
