"""The rollout actors, seen as one: `RolloutFleet` is the control loop's `Rollouts` on Ray.

Each group runs as a whole on one actor. An actor that dies or hangs is restarted by Ray and given the latest weights;
its groups are played again. Tokens stay in the object store: the loop holds references.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from ray.exceptions import ObjectLostError, RayActorError

from actors import runtime
from actors.engine import EngineError
from actors.episode import EnvironmentFailure
from actors.group_references import GroupReferences
from actors.rollout_group import GroupRequest
from cluster.loop.ports import FinishedGroup, GroupTask, finished_group
from cluster.runtime.weights import Superseded, Weights
from learners.policy.parity import Scores
from trajectories.errors import RunError, WorkersLost, last_line

logger = logging.getLogger(__name__)

RETRY_S = 0.5
GROUP_ATTEMPTS = 4
"""Actors that may die under a group before the run is stopped."""
IN_HAND = 2
"""An actor has at most so many times the episodes that it plays at once. Those beyond wait there, and each begins as
soon as a single one ends: a group with one long member would else keep the places of all, two thirds of an engine
where lengths differ as those of reasoning do (`benchmarks.asynchrony`)."""
REVIVALS = 3
"""Times that an actor which ran before may fail to start again, before it is given up."""


ENDED = RayActorError, EngineError, EnvironmentFailure
"""What a call to an actor raises when the actor ended, or when what it is made of does not start again after an end."""


class NotStarted(RunError):
    """An actor's engine or environments do not start; the message has their own words."""


@dataclass(slots=True, eq=False)
class Member:
    """One rollout actor.

    Attributes:
        load: episodes that it has in hand, running or waiting.
        healthy: set while it answers and holds the latest weights.
        given_up: it died, and did not start again.
    """

    name: str
    actor: Any
    load: int = 0
    healthy: asyncio.Event = field(default_factory=asyncio.Event)
    given_up: bool = False


class RolloutFleet:
    """Runs every group on the least loaded healthy actor and keeps all actors alive and up to date.

    Args:
        actors: by name; Ray restarts them when they die.
        episodes_per_actor: episodes that run on one actor at the same time; it gets twice as many, and a group that is
            larger still alone.
        start_timeout_s: an actor must be ready within this time of its start.
        health_check_s: an actor that gives no sign of life for so long is restarted.
    """

    def __init__(
        self,
        actors: dict[str, Any],
        episodes_per_actor: int,
        start_timeout_s: float,
        health_check_s: float = 60.0,
    ) -> None:
        self.restarts = 0
        self._members = [Member(name, actor) for name, actor in actors.items()]
        self._most_in_hand = IN_HAND * episodes_per_actor
        self._start_timeout_s, self._health_check_s = start_timeout_s, health_check_s
        self._weights: Weights | None = None
        self._version = self._published = 0
        self._changed = asyncio.Condition()
        self._failure: RunError | None = None
        self._background: set[asyncio.Task[None]] = set()

    @property
    def version(self) -> int:
        """Version of the weights published last."""
        return self._version

    def room(self, members: int) -> int:
        return max(1, self._most_in_hand // members) * len(self._members)

    async def start(self) -> None:
        """Wait until every actor is ready. Raises RunError with the actor's own words when one is not in time."""
        await asyncio.gather(*(self._make_ready(member) for member in self._members))
        for member in self._members:
            self._spawn(self._watch_health(member))

    async def run_group(self, task: GroupTask) -> FinishedGroup:
        for _ in range(GROUP_ATTEMPTS):
            member = await self._reserve(len(task.seeds))
            try:
                episodes, sequences = member.actor.run_group.remote(self._request(task))
                return finished_group(await episodes, GroupReferences(episodes, sequences))
            except (*ENDED, ObjectLostError) as error:
                logger.warning("group %s is played again: %s", task.group_id, last_line(error))
                self._lost(member)
            finally:
                await self._release(member, len(task.seeds))
        raise RunError(f"{GROUP_ATTEMPTS} rollout actors died under group {task.group_id}: look at their logs")

    async def publish(self, weights: Weights, version: int) -> None:
        """Load new weights into every actor that lives; those that come back later load them then."""
        async with self._changed:
            self._weights, self._version = weights, version
            self._changed.notify_all()  # revived engines may be waiting for weights
        healthy = self._healthy()
        try:
            self._sort_out("publish", healthy, await self._load(weights, healthy))
        except ObjectLostError as error:
            raise self._weights_lost() from error
        self._published = version

    async def score(self, token_ids: Any, temperature: float) -> list[Scores]:
        """What every engine says of each sequence.

        Args:
            token_ids: reference to a list of int32 [T].
        """
        for _ in range(GROUP_ATTEMPTS):
            async with self._changed:
                await self._changed.wait_for(lambda: self._failure or self._healthy())
            if self._failure:
                raise self._failure
            if scores := await self._from_all("score_logprobs", token_ids, temperature):
                return scores
        raise RunError(
            f"no rollout actor could score for the parity check in {GROUP_ATTEMPTS} tries: look at their logs"
        )

    async def close(self) -> None:
        """Stop the health checks; the actors are the owner's."""
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)

    async def _from_all(self, method: str, *arguments: Any) -> list[Any]:
        """What every healthy actor answers to a method of `actors.rollout.RolloutActor`; those that die over it are
        revived and left out."""
        healthy = self._healthy()
        calls = (getattr(member.actor, method).remote(*arguments) for member in healthy)
        return self._sort_out(method, healthy, await asyncio.gather(*calls, return_exceptions=True))

    def _sort_out(self, method: str, members: list[Member], answers: list[Any]) -> list[Any]:
        """The answers of those that live; the others are revived. Raises whatever is no death."""
        for member, answer in zip(members, answers, strict=True):
            if isinstance(answer, ENDED):
                logger.warning("%s did not %s: %s", member.name, method, last_line(answer))
                self._lost(member)
            elif isinstance(answer, BaseException):
                raise answer
        return [answer for answer in answers if not isinstance(answer, BaseException)]

    def _request(self, task: GroupTask) -> GroupRequest:
        return GroupRequest(
            group_id=task.group_id,
            environment=task.environment,
            task_id=task.task_id,
            seeds=task.seeds,
            weights_version=self._published,  # what is on its way to the engines must not be asked of them yet
            temperature=task.temperature,
            split=task.split,
            max_turns=task.max_turns,
            advice=task.advice,
        )

    async def _reserve(self, members: int) -> Member:
        """The least loaded healthy actor that may take so many. Raises RunError when the fleet is beyond repair."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._failure or self._free(members))
            if self._failure:
                raise self._failure
            member = min(self._free(members), key=lambda member: member.load)
            member.load += members
            return member

    def _healthy(self) -> list[Member]:
        return [member for member in self._members if member.healthy.is_set()]

    def _free(self, members: int) -> list[Member]:
        most = self._most_in_hand
        return [member for member in self._healthy() if not member.load or member.load + members <= most]

    async def _release(self, member: Member, members: int) -> None:
        async with self._changed:
            member.load -= members
            self._changed.notify_all()

    def _lost(self, member: Member) -> None:
        """An actor has died: send it no groups until it is back with the latest weights."""
        if member.healthy.is_set():
            member.healthy.clear()
            self.restarts += 1
            self._spawn(self._revive(member))

    async def _revive(self, member: Member) -> None:
        try:
            await self._start_again(member)
            logger.warning("%s is back with weights of version %d", member.name, self._version)
        except Exception as error:  # nobody awaits this task: whoever waits for an actor must learn that none comes
            logger.error("%s is given up: %s", member.name, last_line(error))
            member.given_up = True
            if all(other.given_up for other in self._members):
                self._failure = error if isinstance(error, RunError) else RunError(f"{member.name}: {last_line(error)}")
        async with self._changed:
            self._changed.notify_all()

    async def _start_again(self, member: Member) -> None:
        """Start an actor that died.

        Unlike the first start, one that fails is tried again: what worked before was killed or found no memory.
        """
        for attempt in range(1, REVIVALS + 1):
            try:
                return await self._make_ready(member)
            except NotStarted as error:
                if attempt == REVIVALS:
                    raise
                logger.warning("%s; trying again", error)
                runtime.kill(member.actor, restart=True)

    async def _make_ready(self, member: Member) -> None:
        """Wait for an actor's answer, then give it the latest weights. Raises RunError when time is up.

        While the learner trains there are no weights to give: the time until the next publication does not count.
        """
        while not member.healthy.is_set():
            weights = self._weights
            try:
                async with asyncio.timeout(self._start_timeout_s):
                    loaded = None
                    while loaded != self._version:
                        loaded = await self._answer(member)
            except TimeoutError:
                raise RunError(
                    f"{member.name} was not ready within {self._start_timeout_s:g} s: raise placement.start_timeout_s, "
                    "or look at its log"
                ) from None
            except Superseded:
                async with self._changed:
                    await self._changed.wait_for(lambda known=weights: self._weights is not known)
                continue
            member.healthy.set()

    async def _answer(self, member: Member) -> int | None:
        """One try to reach an actor and bring it up to date; the version that it holds now."""
        try:
            health = await member.actor.check_health.remote()
            if health.version == self._version:
                return self._version
            version, weights = self._version, self._weights
            assert weights is not None, "a version above 0 was published"
            (outcome,) = await self._load(weights, [member])
            if outcome is not None:
                raise outcome
            return version
        except RayActorError:
            await asyncio.sleep(RETRY_S)
            return None
        except (EngineError, EnvironmentFailure) as error:
            raise NotStarted(f"{member.name} does not start: {last_line(error)}") from error
        except ObjectLostError as error:
            raise self._weights_lost() from error

    def _weights_lost(self) -> WorkersLost:
        return WorkersLost(f"the weights of version {self._version} are gone: their learner worker died")

    async def _load(self, weights: Weights, members: list[Member]) -> list[Any]:
        return await weights.load({member.name: member.actor for member in members})

    async def _watch_health(self, member: Member) -> None:
        """Check again and again; kill an actor that hangs, so that Ray restarts it."""
        while True:
            await asyncio.sleep(self._health_check_s)
            if not member.healthy.is_set():
                continue
            try:
                await asyncio.wait_for(member.actor.check_health.remote(), self._health_check_s)
            except TimeoutError:
                logger.warning("%s gave no sign of life for %g s and is restarted", member.name, self._health_check_s)
                runtime.kill(member.actor, restart=True)
                self._lost(member)
            except Exception as error:  # whatever it answers but its health, groups are not for it
                logger.warning("%s is not well: %s", member.name, last_line(error))
                self._lost(member)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
