"""Environments in processes of their own, and the stock from which a rollout actor borrows them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

from ray.actor import ActorHandle
from ray.exceptions import RayActorError

from actors import runtime
from actors.episode import EnvironmentFailure, Session
from envs.base import Environment, Observation, StepResult
from envs.contract import check_observation, check_step
from trajectories.errors import UserError

logger = logging.getLogger(__name__)

LONGEST_ACTION = 80
"""Characters of an action that a failure repeats."""
Openers = Mapping[str, Callable[[], Environment]]
"""What makes an environment, by its name."""
Place = tuple[str, str]
"""A slot, and which of its environments."""
Stepped = StepResult | EnvironmentFailure | UserError
"""What became of one action: a failure is the episode's, a UserError the run's."""


class EnvironmentHost:
    """A process full of environments, kept between episodes. Runs as a Ray actor, one call at a time.

    A slot holds one environment of each kind; its first `reset` opens it. When the process dies, Ray starts it again
    with no slots.
    """

    def __init__(self, openers: Openers) -> None:
        self._openers = openers
        self._environments: dict[Place, Environment] = {}
        self._reward_names: dict[str, tuple[str, ...]] = {}

    def reward_names(self) -> dict[str, tuple[str, ...]]:
        """The rewards of each environment, opened once, so that missing data are told before anything is played."""
        for name, opener in self._openers.items():
            if name not in self._reward_names:
                environment = opener()
                self._reward_names[name] = tuple(environment.reward_names)
                environment.close()
        return self._reward_names

    def reset(self, place: Place, task_id: str, seed: int) -> Observation:
        """Start an episode in a slot. Raises UserError, or whatever the environment raises."""
        if place not in self._environments:
            self._environments[place] = self._openers[place[1]]()
        try:
            observation = self._environments[place].reset(task_id, seed)
            check_observation(observation, f"the environment {place[1]}")
            return observation
        except Exception:
            self._discard(place)
            raise

    def step_all(self, steps: Sequence[tuple[Place, str]]) -> list[Stepped]:
        """An action in each of several slots, one after the other; an action that failed has its failure in place of a
        result. A slot whose environment raised is emptied; a step in an empty slot fails."""
        return [self._step(place, action) for place, action in steps]

    def _step(self, place: Place, action: str) -> Stepped:
        if place not in self._environments:
            return EnvironmentFailure(f"no episode in slot {place[0]}: its process was restarted")
        environment = self._environments[place]
        try:
            step = environment.step(action)
            check_step(step, tuple(environment.reward_names), f"the environment {place[1]}")
            return step
        except UserError as error:  # another attempt would end in the same line
            self._discard(place)
            return error
        except Exception as error:
            self._discard(place)
            return EnvironmentFailure(f"step {_shortened(action)!r}: {_in_a_line(error)}")

    def _discard(self, place: Place) -> None:
        """Empty a slot whose environment raised; one in such a state need not be able to close."""
        try:
            self._environments.pop(place).close()
        except Exception as error:
            logger.warning("an environment %s that had failed could not be closed: %s", place[1], _in_a_line(error))


def start_environment_host(openers: Openers, options: Mapping[str, Any]) -> ActorHandle:
    """A host as a Ray actor that Ray restarts however often it dies.

    Args:
        openers: by name, what makes one environment, e.g. `partial(make_environment, "alfworld", data=path)`.
        options: Ray's actor options: name, num_cpus, scheduling_strategy, …
    """
    return runtime.start(EnvironmentHost, {"max_restarts": -1, **options}, openers)


class _HostLine:
    """The way from a rollout actor to one host.

    Steps that episodes ask for in the same turn of the event loop travel as one call: an engine answers many episodes
    at once, and a call costs both sides more than a step of a game does.
    """

    def __init__(self, host: ActorHandle, timeout_s: float) -> None:
        self._host, self._timeout_s = host, timeout_s
        self._waiting: list[tuple[Place, str, asyncio.Future[StepResult]]] = []
        self._under_way: set[asyncio.Task[None]] = set()

    async def reset(self, place: Place, task_id: str, seed: int) -> Observation:
        # A reset may be repeated, so Ray sends it again when the host is being restarted.
        call = self._host.reset.options(max_task_retries=-1).remote(place, task_id, seed)
        return await _bounded(f"reset to {task_id}", self._host, call, self._timeout_s)

    async def step(self, place: Place, action: str) -> StepResult:
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._send)
        answer: asyncio.Future[StepResult] = loop.create_future()
        self._waiting.append((place, action, answer))
        return await answer

    def _send(self) -> None:
        steps, self._waiting = self._waiting, []
        task = asyncio.create_task(self._answer(steps))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _answer(self, steps: Sequence[tuple[Place, str, asyncio.Future[StepResult]]]) -> None:
        call = self._host.step_all.remote([(place, action) for place, action, _ in steps])
        try:
            results = await _bounded(f"a step of {len(steps)} episodes", self._host, call, self._timeout_s)
        except EnvironmentFailure as failure:
            results: list[Stepped] = [EnvironmentFailure(str(failure)) for _ in steps]
        for (_, _, answer), result in zip(steps, results, strict=True):
            if answer.cancelled():
                continue
            if isinstance(result, Exception):
                answer.set_exception(result)
            else:
                answer.set_result(result)


@dataclass(frozen=True, slots=True)
class _Slot:
    line: _HostLine
    name: str


class EnvironmentPool:
    """Slots on several hosts that the episodes of one rollout actor take turns in; make it with `open`."""

    def __init__(
        self,
        hosts: Sequence[ActorHandle],
        owner: str,
        slots: int,
        timeout_s: float,
        reward_names: Mapping[str, tuple[str, ...]],
    ) -> None:
        self.reward_names = reward_names
        lines = [_HostLine(host, timeout_s) for host in hosts]
        self._free: asyncio.Queue[_Slot] = asyncio.Queue()
        for index in range(slots):
            self._free.put_nowait(_Slot(lines[index % len(lines)], f"{owner}/{index}"))

    @classmethod
    async def open(cls, hosts: Sequence[ActorHandle], owner: str, slots: int, timeout_s: float) -> EnvironmentPool:
        """Make the slots, once every host has opened each environment. How long that may take is the caller's to bound:
        other actors' episodes are on those hosts, and to read a large catalogue is not to hang.

        Args:
            owner: name of the rollout actor; hosts are shared, slots are not.
            timeout_s: of every reset and step.
        Raises:
            UserError: the environment's data are missing or damaged.
            EnvironmentFailure: an environment does not open, or its host keeps dying.
        """
        with _in_words("open"):
            opened = (host.reward_names.options(max_task_retries=2).remote() for host in hosts)
            names, *_ = await asyncio.gather(*opened)
        return cls(hosts, owner, slots, timeout_s, names)

    @asynccontextmanager
    async def lease(self, environment: str) -> AsyncIterator[Session]:
        """See `actors.rollout_group.Environments.lease`."""
        slot = await self._free.get()
        try:
            place = (slot.name, environment)
            yield _HostedSession(slot.line, place, self.reward_names[environment])
        finally:
            self._free.put_nowait(slot)


@dataclass(frozen=True, slots=True)
class _HostedSession:
    line: _HostLine
    place: Place
    reward_names: tuple[str, ...]

    async def reset(self, task_id: str, seed: int) -> Observation:
        return await self.line.reset(self.place, task_id, seed)

    async def step(self, action: str) -> StepResult:
        return await self.line.step(self.place, action)


async def _bounded(what: str, host: ActorHandle, call: Awaitable[Any], timeout_s: float) -> Any:
    with _in_words(what):
        try:
            return await asyncio.wait_for(call, timeout_s)
        except TimeoutError:
            runtime.kill(host, restart=True)  # nothing else stops a hanging environment
            raise EnvironmentFailure(f"{what}: no answer within {timeout_s:g} s; its process is restarted") from None


@contextmanager
def _in_words(what: str) -> Iterator[None]:
    try:
        yield
    except RayActorError as error:
        raise EnvironmentFailure(f"{what}: the environment's process died") from error
    except (UserError, EnvironmentFailure):
        raise
    except Exception as error:
        raise EnvironmentFailure(f"{what}: {_in_a_line(error)}") from error


def _shortened(action: str) -> str:
    return action if len(action) <= LONGEST_ACTION else f"{action[:LONGEST_ACTION]}…"


def _in_a_line(error: Exception) -> str:
    return " ".join(str(error).split())[-500:]
