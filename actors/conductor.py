"""The Conductor in the loop: an actor that weighs reward channels and learns from what its weights earned."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import ray
import torch
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError
from torch import Tensor

from learners import advantages, rewards
from learners.reward_batch import RewardBatch
from learners.reward_config import ConductorConfig
from learners.rewards import RewardError
from learners.scalarisers import Advantage, Scalarised, weighted

ALARM_SHARE = 0.95
ALARM_UPDATES = 20
"""The alarm rings when one channel holds more than this share of the weight for so many updates in a row."""

logger = logging.getLogger(__name__)


class ConductorError(RuntimeError):
    """The Conductor did not answer in time. The message is one line."""


@dataclass(frozen=True, slots=True)
class Draw:
    """What the Conductor says of n contexts.

    Attributes:
        probabilities: float64 [n, K].
        choices: int64 [n], one channel sampled for each.
        version: updates that the Conductor has had.
    """

    probabilities: Tensor
    choices: Tensor
    version: int


class Conductor(Protocol):
    """What `ConductorScalariser` asks: a `ConductorActor` inline, or one elsewhere behind a `RemoteConductor`."""

    def sample(self, contexts: Tensor) -> Draw: ...

    def observe(self, contexts: Tensor, choices: Tensor, meta_rewards: Tensor) -> dict[str, float]: ...


@dataclass
class _Buffer:
    """Rollouts that wait for the next update, a triple of contexts, choices and meta-rewards a step."""

    steps: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)

    def take(self) -> tuple[Tensor, Tensor, Tensor]:
        contexts, choices, meta_rewards = (torch.cat(column) for column in zip(*self.steps, strict=True))
        self.steps = []
        return contexts, choices, meta_rewards


class ConductorActor:
    """Weights for contexts, a buffer of what they earned, and an update every `update_every` steps.

    A plain class: it runs inline, or as a Ray actor of its own.
    """

    def __init__(self, channels: tuple[str, ...], hidden: int, config: ConductorConfig, seed: int = 0) -> None:
        """
        Args:
            channels: names of the K reward channels.
            hidden: H, the policy's hidden size.
            seed: of sampling.
        """
        from learners import conductor  # here, because RLlib takes seconds that only this process should pay

        self._network = conductor
        self._channels, self._hidden, self._config = channels, hidden, config
        self._learner = conductor.build_learner(hidden, len(channels), config)
        self._generator = torch.Generator().manual_seed(seed)
        self._buffer = _Buffer()
        self._version = 0
        self._held = 0

    def weights(self, contexts: Tensor) -> Tensor:
        """pi(.|h), the weights outside training, float64 [n, K], of contexts [n, H]. Raises RewardError."""
        return self._network.probabilities(self._learner, self._checked(contexts))

    def sample(self, contexts: Tensor) -> Draw:
        """A channel for each of the contexts [n, H], independently. Raises RewardError."""
        probabilities = self.weights(contexts)
        drawn = torch.multinomial(probabilities, 1, generator=self._generator).squeeze(1)
        return Draw(probabilities, drawn, self._version)

    def observe(self, contexts: Tensor, choices: Tensor, meta_rewards: Tensor) -> dict[str, float]:
        """Note what the choices [n] of one step earned [n]; every `update_every` steps learn from it and forget it.

        Returns:
            Metrics of the update: `conductor/version`, `loss`, `temperature`, `entropy` (share of the maximum) and
            `conductor/<channel>/weight`; empty where none was due.
        Raises:
            RewardError: contexts of another size, or a meta-reward that is not finite.
        """
        if not meta_rewards.isfinite().all():
            raise RewardError("a meta-reward is not finite: look at the advantages of this step")
        self._buffer.steps.append((self._checked(contexts), choices, meta_rewards.double()))
        if len(self._buffer.steps) < self._config.update_every:
            return {}
        return self._update()

    def state(self) -> dict[str, Any]:
        """All that the next step depends on: weights, optimiser, random state, buffer. Plain objects and arrays."""
        return {
            "channels": self._channels,
            "hidden": self._hidden,
            "learner": self._learner.get_state(not_components="metrics_logger"),
            "generator": self._generator.get_state(),
            "buffer": list(self._buffer.steps),
            "version": self._version,
            "held": self._held,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave, bit for bit. Raises RewardError: it is of other channels or another model."""
        if (tuple(state["channels"]), state["hidden"]) != (self._channels, self._hidden):
            raise RewardError(
                f"the saved Conductor weighs {', '.join(state['channels'])} by {state['hidden']} numbers, this run "
                f"{', '.join(self._channels)} by {self._hidden}: resume with the reward channels and model it was for"
            )
        # A new learner: RLlib ignores weights that are older than those a learner has.
        self._learner = self._network.build_learner(self._hidden, len(self._channels), self._config)
        self._learner.set_state(state["learner"])
        self._generator.set_state(state["generator"])
        self._buffer = _Buffer(list(state["buffer"]))
        self._version, self._held = state["version"], state["held"]

    def _update(self) -> dict[str, float]:
        contexts, choices, meta_rewards = self._buffer.take()
        if not len(contexts):
            return {}
        metrics = self._network.update(self._learner, contexts, choices, meta_rewards)
        self._version += 1
        probabilities = self.weights(contexts)
        metrics |= {"version": self._version, "entropy": float(rewards.normalised_entropy(probabilities).mean())}
        shares = dict(zip(self._channels, probabilities.mean(0).tolist(), strict=True))
        self._alarm(shares)
        metrics |= {f"{name}/weight": share for name, share in shares.items()}
        return {f"conductor/{name}": float(value) for name, value in metrics.items()}

    def _alarm(self, shares: Mapping[str, float]) -> None:
        largest = max(shares, key=lambda name: shares[name])
        self._held = self._held + 1 if shares[largest] > ALARM_SHARE else 0
        if self._held == ALARM_UPDATES:
            logger.warning(
                "reward channel %s has held more than %g of the weight for %d updates (now %.3f): the Conductor has "
                "collapsed; raise reward.conductor.entropy_weight or try meta_signal=outcome",
                largest, ALARM_SHARE, ALARM_UPDATES, shares[largest],
            )  # fmt: skip

    def _checked(self, contexts: Tensor) -> Tensor:
        if contexts.ndim != 2 or contexts.shape[1] != self._hidden:
            raise RewardError(
                f"contexts are {list(contexts.shape)}, this Conductor reads [n, {self._hidden}]: "
                "give it the policy's own final states"
            )
        return contexts.detach().float().cpu()


def start_conductor(
    channels: tuple[str, ...], hidden: int, config: ConductorConfig, seed: int, options: Mapping[str, Any]
) -> ActorHandle:
    """A `ConductorActor` as a Ray actor. Ray does not restart it: what it had learned would be lost without a word.

    Args:
        options: Ray's actor options: name, num_cpus, scheduling_strategy, …
    """
    return ray.remote(ConductorActor).options(**options).remote(channels, hidden, config, seed)


class RemoteConductor:
    """A `ConductorActor` in another process; every wait is bounded."""

    def __init__(self, handle: ActorHandle, timeout_s: float = 60.0) -> None:
        self._handle, self._timeout_s = handle, timeout_s

    def sample(self, contexts: Tensor) -> Draw:
        """See `ConductorActor.sample`. Raises ConductorError."""
        return self._answer("sample", contexts)

    def observe(self, contexts: Tensor, choices: Tensor, meta_rewards: Tensor) -> dict[str, float]:
        """See `ConductorActor.observe`. Raises ConductorError."""
        return self._answer("observe", contexts, choices, meta_rewards)

    def _answer(self, method: str, *arguments: Tensor) -> Any:
        try:
            return ray.get(getattr(self._handle, method).remote(*arguments), timeout=self._timeout_s)
        except GetTimeoutError:
            raise ConductorError(f"the Conductor has not answered {method!r} within {self._timeout_s:g} s") from None


@dataclass(frozen=True, slots=True)
class ConductorScalariser:
    """Weights that are learned: each rollout is trained under weights sampled for its context, and what they earned
    teaches the Conductor."""

    conductor: Conductor
    config: ConductorConfig
    advantage: Advantage = advantages.grpo

    def __call__(self, batch: RewardBatch) -> Scalarised:
        """Raises RewardError: the batch has no contexts, or they do not fit."""
        if batch.contexts is None or len(batch.contexts) != len(batch.episode_ids):
            count = 0 if batch.contexts is None else len(batch.contexts)
            raise RewardError(
                f"the Conductor has {count} contexts for {len(batch.episode_ids)} episodes, the first of which is "
                f"{batch.episode_ids[0]}: give the policy's final state after each"
            )
        draw = self.conductor.sample(batch.contexts)
        weights = rewards.WEIGHT_MAPS[self.config.weight_map](draw.probabilities, draw.choices, self.config.beta)
        result = weighted(batch, weights, rewards.rank_normalise, self.advantage)
        metrics = self.conductor.observe(batch.contexts, draw.choices, self._meta_rewards(batch, result.advantages))
        return replace(
            result, version=draw.version, choices=draw.choices, probabilities=draw.probabilities, metrics=metrics
        )

    def _meta_rewards(self, batch: RewardBatch, earned: Tensor) -> Tensor:
        """[B]. The outcome alone would teach nothing: a rollout's outcome does not depend on the weights drawn for it
        afterwards. Its product with the advantage does: it is positive where the weights push the policy the way that
        the outcome would, and a policy-gradient step raises the outcome, to first order, by their sum."""
        if self.config.meta_signal == "scalarised":
            return earned
        return earned * self.advantage(batch.outcome, batch.groups)
