"""How the weights of one version come into engines: `Weights`, the handle that the learner gives to the fleet."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from learners.policy.weight_update import WeightOffer

Lives = dict[str, tuple[str, int]]
"""Of every engine by name its life, and the number of its worker processes."""


@dataclass(frozen=True, slots=True)
class Publication:
    """How weights travel in a run.

    Attributes:
        adapters: only adapters are trained, and published.
        timeout_s: an engine's deadline for its running responses, and again for the weights.
        processes: worker processes of an engine.
    """

    adapters: bool
    timeout_s: float
    processes: int = 1


class Superseded(Exception):
    """These weights have changed since: whoever wants some waits for the next publication."""


class Weights(Protocol):
    """Weights of one version, for as long as they are to be had."""

    async def load(self, actors: Mapping[str, Any]) -> list[Any]:
        """Have these actors of `actors.rollout.RolloutActor` load the weights. What became of it by actor in order:
        None, or the error.

        Raises:
            Superseded: they are not to be had any more.
            WorkersLost: the learner died.
        """
        ...


@dataclass(frozen=True, slots=True)
class StoredWeights:
    """Adapters, in the object store. `update` refers to an `AdapterUpdate`."""

    update: Any

    async def load(self, actors: Mapping[str, Any]) -> list[Any]:
        calls = (actor.publish.remote(self.update) for actor in actors.values())
        return await asyncio.gather(*calls, return_exceptions=True)


@dataclass(slots=True)
class LiveWeights:
    """All weights, which only the learner has: it sends them while engines take them.

    Attributes:
        address: host and port where the two meet.
        send: has the learner send to these engines.
        turn: held while weights are sent, and while they are trained.
        processes: worker processes of an engine.
        superseded: set by the learner before it trains.
    """

    version: int
    address: tuple[str, int]
    send: Callable[[Lives], Awaitable[Any]]
    turn: asyncio.Lock
    processes: int = 1
    superseded: bool = False

    async def load(self, actors: Mapping[str, Any]) -> list[Any]:
        self._check()
        async with self.turn:
            self._check()
            # An actor that was restarted unnoticed has another process, and knows nothing of the old connection.
            answers = await asyncio.gather(
                *(actor.check_health.remote() for actor in actors.values()), return_exceptions=True
            )
            lives: Lives = {
                name: (f"{name}/{health.pid}", self.processes)
                for name, health in zip(actors, answers, strict=True)
                if not isinstance(health, BaseException)
            }
            if not lives:
                return list(answers)
            offers = {name: WeightOffer(self.version, *self.address, life) for name, (life, _) in lives.items()}
            taking = [actors[name].publish.remote(offer) for name, offer in offers.items()]
            sent, *taken = await asyncio.gather(self.send(lives), *taking, return_exceptions=True)
            if isinstance(sent, BaseException):
                raise sent
            outcomes = dict(zip(actors, answers, strict=True)) | dict(zip(offers, taken, strict=True))
            return list(outcomes.values())

    def _check(self) -> None:
        if self.superseded:
            raise Superseded
