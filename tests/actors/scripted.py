"""An engine and an environment that follow a script, and groups at hand: unit tests need no model and no Ray."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

import numpy as np

from actors.engine import EngineStats, Generation, SamplingParameters
from actors.episode import Session
from actors.group_references import GroupTables
from envs.base import Observation, StepResult
from trajectories.errors import UserError


class Countdown:
    """A text environment: say `down` as often as the task id says. Tasks are numbers; reset with others is an error.

    The action `crash` raises, `hang` sleeps for an hour, `exit` kills the process.
    """

    reward_names = ("success", "progress", "format", "action_validity")

    def __init__(self) -> None:
        self._left = self._start = 0

    def reset(self, task_id: str, seed: int = 0) -> Observation:
        if not task_id.isdigit():
            raise UserError(f"task {task_id!r} is no number; use a number")
        self._left = self._start = int(task_id)
        return Observation(f"Count down from {task_id}.", ("down", "wait"))

    def step(self, action: str) -> StepResult:
        if action == "crash":
            raise RuntimeError("the game is broken")
        if action == "hang":
            import time

            time.sleep(3600)
        if action == "exit":
            import os

            os._exit(1)
        valid = action in ("down", "wait")
        before, self._left = self._left, self._left - (action == "down")
        done = self._left == 0
        rewards = {
            "success": float(done),
            "progress": (before - self._left) / self._start,
            "format": 1.0,
            "action_validity": float(valid),
        }
        info = {"state_hash": self._left, "action_valid": valid}
        return StepResult(Observation(f"{self._left} left.", ("down", "wait")), rewards, done, info)

    def close(self) -> None:
        pass


class LocalSession:
    """An environment in this process."""

    reward_names = Countdown.reward_names

    def __init__(self) -> None:
        self._environment = Countdown()

    async def reset(self, task_id: str, seed: int) -> Observation:
        return self._environment.reset(task_id, seed)

    async def step(self, action: str) -> StepResult:
        return self._environment.step(action)


class LocalEnvironments:
    """So many sessions; `make` decides which session the n-th lease gets."""

    def __init__(self, slots: int, make: Callable[[int], Session] = lambda lease: LocalSession()) -> None:
        self.reward_names = {"countdown": Countdown.reward_names}
        self._slots = asyncio.Semaphore(slots)
        self._make = make
        self.leases = 0
        self.most = self.leased = 0

    @asynccontextmanager
    async def lease(self, environment: str) -> AsyncIterator[Session]:
        async with self._slots:
            self.leases += 1
            self.leased += 1
            self.most = max(self.most, self.leased)
            try:
                yield self._make(self.leases)
            finally:
                self.leased -= 1


class ScriptedEngine:
    """Says the next of its responses, or what the budget leaves of it, each after so many seconds; the last one for
    ever."""

    def __init__(self, encode: Callable[[str], list[int]], responses: Iterable[str], seconds: float = 0.0) -> None:
        self._encode = encode
        self._responses = list(responses)
        self._seconds = seconds
        self.version = 0
        self.seeds: list[int | None] = []

    async def generate(
        self, prompt_ids: np.ndarray, sampling: SamplingParameters, seed: int | None = None
    ) -> Generation:
        self.seeds.append(seed)
        await asyncio.sleep(self._seconds)
        text = self._responses.pop(0) if len(self._responses) > 1 else self._responses[0]
        whole = np.asarray(self._encode(text), np.int32)
        ids = whole[: sampling.max_tokens]
        return Generation(ids, np.full(len(ids), -0.5, np.float32), self.version, finished=len(ids) == len(whole))

    async def score_logprobs(self, sequences: object, temperature: float = 1.0) -> list[np.ndarray]:
        raise NotImplementedError

    async def publish(self, update: object) -> None:
        raise NotImplementedError

    def stats(self) -> EngineStats:
        return EngineStats(self.version, running=0, generated_tokens=0)

    async def close(self) -> None: ...


class GroupsAtHand:
    """What `StepGroups` is to the router actor, without an object store."""

    def __init__(self, *groups: GroupTables) -> None:
        self._groups = list(groups)

    def fetch(self) -> list[GroupTables]:
        return self._groups
