"""The Conductor in the loop: an actor that learns, from what its reward weights earned, how to weigh channels."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import torch
from ray.actor import ActorHandle
from ray.exceptions import RayActorError
from torch import Tensor

from actors import runtime
from learners.rewards import conductor_head, maths
from learners.rewards.conductor_head import ConductorHead
from learners.rewards.reward_settings import ConductorSettings
from trajectories.errors import UserError, WorkersLost

ALARM_SHARE = 0.95
ALARM_UPDATES = 20
"""The alarm rings when one channel holds more than this share of the weight for so many updates in a row."""

Earned = tuple[Tensor, Tensor, Tensor]
"""Contexts float32 [n, H], choices int64 [n] and meta-rewards float64 [n] of a step's rollouts."""

logger = logging.getLogger(__name__)


class ConductorActor:
    """A buffer of what reward weights have earned, and an update every `update_every` steps.

    A plain class: it runs inline, or as a Ray actor of its own.
    """

    def __init__(self, channels: tuple[str, ...], hidden: int, config: ConductorSettings) -> None:
        """
        Args:
            channels: names of the K reward channels.
            hidden: H, the policy's hidden size.
        """
        # Here, because RLlib takes seconds that only this process should pay.
        from learners.rewards import conductor_module

        self._network = conductor_module
        self._channels, self._hidden, self._config = channels, hidden, config
        self._learner = conductor_module.build_learner(hidden, len(channels), config)
        self._buffer: list[Earned] = []
        self._version = 0
        self._held = 0

    def head(self) -> ConductorHead:
        """What the rollouts of the next step are weighed by."""
        return self._network.head(self._learner, self._version)

    def observe(self, contexts: Tensor, choices: Tensor, meta_rewards: Tensor) -> dict[str, float]:
        """Note what the choices [n] of one step earned [n]; every `update_every` steps learn from it and forget it.

        Returns:
            Metrics of the update: `conductor/version`, `loss`, `temperature`, `entropy` (share of the maximum) and
            `conductor/<channel>/weight`, and `held`, updates since which one channel has nearly all the weight; empty
            where none was due.
        Raises:
            UserError: contexts of another size, or a meta-reward that is not finite.
        """
        if not meta_rewards.isfinite().all():
            raise UserError("a meta-reward is not finite: look at the advantages of this step")
        conductor_head.probabilities(self.head(), contexts)  # refuses contexts of another size
        self._buffer.append((contexts, choices, meta_rewards.double()))
        if len(self._buffer) < self._config.update_every:
            return {}
        return self._update()

    def state(self) -> dict[str, Any]:
        """All that the next step depends on: weights, optimiser, buffer. Plain objects and arrays."""
        return {
            "channels": self._channels,
            "hidden": self._hidden,
            "learner": self._learner.get_state(not_components="metrics_logger"),
            "buffer": list(self._buffer),
            "version": self._version,
            "held": self._held,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave, bit for bit. Raises UserError: it is of other channels or another model."""
        if (tuple(state["channels"]), state["hidden"]) != (self._channels, self._hidden):
            raise UserError(
                f"the saved Conductor weighs {', '.join(state['channels'])} by {state['hidden']} numbers, this run "
                f"{', '.join(self._channels)} by {self._hidden}: resume with the reward channels and model it was for"
            )
        # A new learner: RLlib ignores weights that are older than those a learner has.
        self._learner = self._network.build_learner(self._hidden, len(self._channels), self._config)
        self._learner.set_state(state["learner"])
        self._buffer = list(state["buffer"])
        self._version, self._held = state["version"], state["held"]

    def _update(self) -> dict[str, float]:
        contexts, choices, meta_rewards = (torch.cat(column) for column in zip(*self._buffer, strict=True))
        self._buffer = []
        if not len(contexts):
            return {}
        metrics = self._network.update(self._learner, contexts, choices, meta_rewards)
        self._version += 1
        probabilities = conductor_head.probabilities(self.head(), contexts)
        metrics |= {"version": self._version, "entropy": float(maths.normalised_entropy(probabilities).mean())}
        shares = dict(zip(self._channels, probabilities.mean(0).tolist(), strict=True))
        self._held = self._held + 1 if max(shares.values()) > ALARM_SHARE else 0
        metrics |= {"held": self._held} | {f"{name}/weight": share for name, share in shares.items()}
        return {f"conductor/{name}": float(value) for name, value in metrics.items()}


def alarm(metrics: Mapping[str, float]) -> str | None:
    """What to say of an update after which one channel has held nearly all the weight for so long; once."""
    if metrics.get("conductor/held") != ALARM_UPDATES:
        return None
    shares = {key.split("/")[1]: share for key, share in metrics.items() if key.endswith("/weight")}
    largest = max(shares, key=lambda name: shares[name])
    return (
        f"reward channel {largest} has held more than {ALARM_SHARE:g} of the weight for {ALARM_UPDATES} updates (now "
        f"{shares[largest]:.3f}): the Conductor has collapsed; raise reward.conductor.entropy_weight or try "
        "meta_signal=outcome"
    )


def start_conductor(
    channels: tuple[str, ...], hidden: int, config: ConductorSettings, options: Mapping[str, Any]
) -> ActorHandle:
    """A `ConductorActor` as a Ray actor. Ray does not restart it: what it had learned would be lost without a word.

    Args:
        options: Ray's actor options: name, num_cpus, scheduling_strategy, …
    """
    return runtime.start(ConductorActor, options, channels, hidden, config)


class RemoteConductor:
    """A `ConductorActor` in another process; every wait is bounded. All methods raise WorkersLost."""

    def __init__(self, handle: ActorHandle, timeout_s: float = 120.0) -> None:
        self._handle, self._timeout_s = handle, timeout_s

    async def head(self) -> ConductorHead:
        """See `ConductorActor.head`."""
        return await self._answer("head")

    async def observe(self, contexts: Tensor, choices: Tensor, meta_rewards: Tensor) -> dict[str, float]:
        """See `ConductorActor.observe`."""
        metrics = await self._answer("observe", contexts, choices, meta_rewards)
        if line := alarm(metrics):
            logger.warning(line)
        return metrics

    async def state(self) -> dict[str, Any]:
        """See `ConductorActor.state`."""
        return await self._answer("state")

    async def restore(self, state: Mapping[str, Any]) -> None:
        """See `ConductorActor.restore`."""
        await self._answer("restore", state)

    def stop(self) -> None:
        """End its process."""
        runtime.kill(self._handle)

    async def _answer(self, method: str, *arguments: Any) -> Any:
        try:
            return await asyncio.wait_for(getattr(self._handle, method).remote(*arguments), self._timeout_s)
        except TimeoutError:
            raise WorkersLost(f"the Conductor has not answered {method!r} within {self._timeout_s:g} s") from None
        except RayActorError as error:
            raise WorkersLost("the Conductor died, and with it what it learned since the last checkpoint") from error
