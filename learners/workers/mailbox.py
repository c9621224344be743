"""`Mailbox`: where the coordinator leaves commands for the learner workers, and they their answers. Imports next to
nothing, since its process has nothing else to do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from trajectories.errors import ConcertoError

POLL_SECONDS = 10.0
"""A worker asks for its next command at least this often; only bounds how long one request stays open."""


@dataclass(frozen=True, slots=True)
class Command:
    """A method of `LearnerWorker` that every rank is to call. Commands are numbered from 1."""

    number: int
    method: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a command: one reference a rank, or what went wrong; an error of ours as it was raised."""

    results: list[Any] = field(default_factory=list)
    error: str | ConcertoError | None = None


class Mailbox:
    """Async actor between the coordinator and the ranks: one command at a time, one reply a rank."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._joined: set[int] = set()
        self._command: Command | None = None
        self._replies: dict[int, Any] = {}
        self._error: str | ConcertoError | None = None
        self._ended: str | ConcertoError | None = None
        self._stopping = False
        self._changed = asyncio.Condition()
        self._lock = asyncio.Lock()

    async def join(self, rank: int) -> None:
        """A rank has built its worker."""
        async with self._changed:
            self._joined.add(rank)
            self._changed.notify_all()

    async def refuse(self, error: ConcertoError) -> None:
        """A rank cannot build its worker, and never will: nobody waits for the others."""
        async with self._changed:
            self._ended = self._ended or error
            self._changed.notify_all()

    async def next(self, after: int) -> Command | str | None:
        """The command with a number above `after`; "stop"; or None when there was none for a while."""

        def news() -> Command | str | None:
            if self._stopping:
                return "stop"
            return self._command if self._command and self._command.number > after else None

        return await self._wait(news, POLL_SECONDS)

    async def reply(self, number: int, rank: int, result: list[Any], error: str | ConcertoError | None) -> None:
        """A rank's answer: a list with one reference, or the error: its text, or an error of ours."""
        async with self._changed:
            if self._command and self._command.number == number:  # else it comes after the call's time was up
                self._error = self._error or error
                self._replies[rank] = result
                self._changed.notify_all()

    async def wait_joined(self, timeout_s: float) -> str | ConcertoError | None:
        """None once all ranks have joined, else what is missing, or why a rank refused."""

        def news() -> bool:
            return len(self._joined) == self._workers or self._ended is not None

        if await self._wait(news, timeout_s) and self._ended is None:
            return None
        return self._ended or f"{len(self._joined)} of {self._workers} workers were ready after {timeout_s:.0f} s"

    async def call(self, method: str, arguments: tuple[Any, ...], timeout_s: float) -> Outcome:
        """Run a method on every rank; the results in order of rank. The first error ends the call."""
        async with self._lock:
            async with self._changed:
                number = self._command.number + 1 if self._command else 1
                self._command = Command(number, method, arguments)
                self._replies, self._error = {}, None
                self._changed.notify_all()
            done = await self._wait(self._call_ended, timeout_s)
            if self._error or self._ended:
                return Outcome(error=self._error or self._ended)
            if not done:
                missing = sorted(set(range(self._workers)) - set(self._replies))
                return Outcome(error=f"ranks {missing} gave no answer within {timeout_s:.0f} s")
            return Outcome([self._replies[rank][0] for rank in range(self._workers)])

    async def stop(self) -> None:
        """Let the train function return on every rank."""
        async with self._changed:
            self._stopping = True
            self._changed.notify_all()

    async def end(self, reason: str) -> None:
        """The train run is over, for this reason: nobody will answer any more."""
        async with self._changed:
            self._ended = self._ended or reason
            self._changed.notify_all()

    def _call_ended(self) -> bool:
        return len(self._replies) == self._workers or bool(self._error) or self._ended is not None

    async def _wait(self, news: Callable[[], Any], timeout_s: float) -> Any:
        """What `news` gives once that is true of anything; None when time is up."""
        async with self._changed:
            try:
                return await asyncio.wait_for(self._changed.wait_for(news), timeout_s)
            except TimeoutError:
                return None
