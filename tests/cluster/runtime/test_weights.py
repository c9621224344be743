"""Full weights between a learner and actors in this process: who takes part, who is left out, when they are gone."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayActorError

from cluster.runtime.weights import Lives, LiveWeights, Superseded
from learners.policy.weight_update import WeightOffer
from tests.cluster.runtime.test_fleet import Remote
from trajectories.errors import WorkersLost


class Learner:
    """Remembers to whom it sent; engines wait for it."""

    def __init__(self, error: Exception | None = None) -> None:
        self.sent: list[Lives] = []
        self.sending = asyncio.Event()
        self.error = error

    async def send(self, lives: Lives) -> None:
        self.sent.append(lives)
        self.sending.set()
        if self.error:
            raise self.error


class Actor:
    """`dies` at its health check, or as it takes weights."""

    def __init__(self, pid: int, learner: Learner, dies: str = "") -> None:
        self.offers: list[WeightOffer] = []
        self._pid, self._learner, self._dies = pid, learner, dies
        self.check_health, self.publish = Remote(self._health), Remote(self._publish)

    async def _health(self) -> Any:
        if self._dies == "before":
            raise RayActorError
        return SimpleNamespace(pid=self._pid)

    async def _publish(self, offer: WeightOffer) -> None:
        await self._learner.sending.wait()
        if self._dies == "during":
            raise RayActorError
        self.offers.append(offer)


def live(learner: Learner, processes: int = 1) -> LiveWeights:
    return LiveWeights(3, ("node", 7), learner.send, asyncio.Lock(), processes)


async def test_the_learner_sends_to_those_that_live_while_they_take() -> None:
    learner = Learner()
    actors = {
        "rollout-0": Actor(11, learner),
        "rollout-1": Actor(12, learner, dies="before"),
        "rollout-2": Actor(13, learner, dies="during"),
    }
    first, second, third = await live(learner, processes=2).load(actors)
    assert first is None and isinstance(second, RayActorError) and isinstance(third, RayActorError)
    assert learner.sent == [{"rollout-0": ("rollout-0/11", 2), "rollout-2": ("rollout-2/13", 2)}]
    assert actors["rollout-0"].offers == [WeightOffer(3, "node", 7, "rollout-0/11")]


async def test_without_a_living_actor_nothing_is_sent() -> None:
    learner = Learner()
    (outcome,) = await live(learner).load({"rollout-0": Actor(1, learner, dies="before")})
    assert isinstance(outcome, RayActorError) and learner.sent == []


async def test_a_learner_that_dies_as_it_sends_is_told_as_that() -> None:
    learner = Learner(WorkersLost("send: killed"))
    with pytest.raises(WorkersLost, match="send: killed"):
        await live(learner).load({"rollout-0": Actor(1, learner)})


async def test_weights_that_are_being_trained_are_not_sent() -> None:
    learner = Learner()
    weights = live(learner)
    async with weights.turn:
        waiting = asyncio.create_task(weights.load({"rollout-0": Actor(1, learner)}))
        await asyncio.sleep(0)
        weights.superseded = True
    for late in (waiting, weights.load({})):
        with pytest.raises(Superseded):
            await late
    assert learner.sent == []
