"""Environments in processes of their own, and the stock from which a rollout actor borrows them."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError

from actors.episode import EnvironmentFailure, Session
from envs.base import Environment, Observation, StepResult
from trajectories.errors import UserError

logger = logging.getLogger(__name__)

Openers = Mapping[str, Callable[[], Environment]]
"""What makes an environment, by its name."""
Place = tuple[str, str]
"""A slot, and which of its environments."""


class EnvironmentHost:
    """A process full of environments, kept between episodes. Runs as a Ray actor, one call at a time.

    A slot holds one environment of each kind; its first `reset` opens it. When the process dies, Ray starts it again
    with no slots.
    """

    def __init__(self, openers: Openers) -> None:
        self._openers = openers
        self._environments: dict[Place, Environment] = {}

    def reward_names(self) -> dict[str, tuple[str, ...]]:
        """The rewards of each environment, opened once, so that missing data are told before anything is played."""
        names = {}
        for name, opener in self._openers.items():
            environment = opener()
            names[name] = tuple(environment.reward_names)
            environment.close()
        return names

    def check_health(self) -> int:
        """A sign of life: the process id."""
        return os.getpid()

    def reset(self, place: Place, task_id: str, seed: int) -> Observation:
        """Start an episode in a slot. Raises UserError, or whatever the environment raises."""
        if place not in self._environments:
            self._environments[place] = self._openers[place[1]]()
        try:
            return self._environments[place].reset(task_id, seed)
        except Exception:
            self._discard(place)
            raise

    def step(self, place: Place, action: str) -> StepResult:
        """One action. A slot whose environment raised is emptied; a step in an empty slot is an EnvironmentFailure."""
        if place not in self._environments:
            raise EnvironmentFailure(f"no episode in slot {place[0]}: its process was restarted")
        try:
            return self._environments[place].step(action)
        except Exception:
            self._discard(place)
            raise

    def _discard(self, place: Place) -> None:
        self._environments.pop(place).close()


def start_environment_host(openers: Openers, options: Mapping[str, Any]) -> ActorHandle:
    """A host as a Ray actor that Ray restarts however often it dies.

    Args:
        openers: by name, what makes one environment, e.g. `partial(make_environment, "alfworld", data=path)`.
        options: Ray's actor options: name, num_cpus, scheduling_strategy, …
    """
    return cast(ActorHandle, ray.remote(EnvironmentHost).options(max_restarts=-1, **options).remote(openers))


@dataclass(frozen=True, slots=True)
class _Slot:
    host: ActorHandle
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
        self._timeout_s = timeout_s
        self._free: asyncio.Queue[_Slot] = asyncio.Queue()
        for index in range(slots):
            self._free.put_nowait(_Slot(hosts[index % len(hosts)], f"{owner}/{index}"))

    @classmethod
    async def open(cls, hosts: Sequence[ActorHandle], owner: str, slots: int, timeout_s: float) -> EnvironmentPool:
        """
        Args:
            owner: name of the rollout actor; hosts are shared, slots are not.
        Raises:
            UserError: the environment's data are missing or damaged.
            EnvironmentFailure: a host does not answer.
        """
        names = await _bounded("open", hosts[0], hosts[0].reward_names.options(max_task_retries=2).remote(), timeout_s)
        return cls(hosts, owner, slots, timeout_s, names)

    @asynccontextmanager
    async def lease(self, environment: str) -> AsyncIterator[Session]:
        """See `actors.rollout_group.Environments.lease`."""
        slot = await self._free.get()
        try:
            place = (slot.name, environment)
            yield _HostedSession(slot.host, place, self.reward_names[environment], self._timeout_s)
        finally:
            self._free.put_nowait(slot)


@dataclass(frozen=True, slots=True)
class _HostedSession:
    host: ActorHandle
    place: Place
    reward_names: tuple[str, ...]
    timeout_s: float

    async def reset(self, task_id: str, seed: int) -> Observation:
        # A reset may be repeated, so Ray sends it again when the host is being restarted.
        call = self.host.reset.options(max_task_retries=-1).remote(self.place, task_id, seed)
        return await _bounded(f"reset to {task_id}", self.host, call, self.timeout_s)

    async def step(self, action: str) -> StepResult:
        call = self.host.step.remote(self.place, action)
        return await _bounded(f"step {action!r}", self.host, call, self.timeout_s)


async def _bounded(what: str, host: ActorHandle, call: Awaitable[Any], timeout_s: float) -> Any:
    try:
        return await asyncio.wait_for(call, timeout_s)
    except TimeoutError:
        ray.kill(host, no_restart=False)  # nothing else stops a hanging environment
        raise EnvironmentFailure(f"{what}: no answer within {timeout_s:g} s; its process is restarted") from None
    except RayActorError as error:
        raise EnvironmentFailure(f"{what}: the environment's process died") from error
    except (UserError, EnvironmentFailure):
        raise
    except Exception as error:
        raise EnvironmentFailure(f"{what}: {' '.join(str(error).split())[-500:]}") from error
