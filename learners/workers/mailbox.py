"""`Mailbox`: where the coordinator leaves commands for the learner workers, and they their answers. Imports next to
nothing, since its process has nothing else to do.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

POLL_SECONDS = 10.0
"""A worker asks for its next command at least this often; only bounds how long one request stays open."""


@dataclass(frozen=True, slots=True)
class Command:
    number: int
    method: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a command: one reference a rank, or what went wrong."""

    results: list[Any] = field(default_factory=list)
    error: str | None = None
    restarted: bool = False
    checkpoint: str | None = None


class Mailbox:
    """Async actor between the coordinator and the ranks: one command at a time, one reply a rank.

    Ranks of one start of the train function share an attempt id; a new id means that Ray Train restarted them.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._attempt = ""
        self._joined: set[int] = set()
        self._command: Command | None = None
        self._replies: dict[int, Any] = {}
        self._error: str | None = None
        self._restarted = False
        self._ended: str | None = None
        self._stopping = False
        self._checkpoint: str | None = None
        self._changed = asyncio.Condition()
        self._turn = asyncio.Lock()

    async def join(self, attempt: str) -> str | None:
        """A rank has started; returns the checkpoint that it must restore first."""
        async with self._changed:
            if attempt != self._attempt:
                self._restarted = self._attempt != ""
                self._attempt, self._joined, self._command = attempt, set(), None
                self._changed.notify_all()
            return self._checkpoint

    async def ready(self, attempt: str, rank: int) -> None:
        """A rank has built its worker."""
        async with self._changed:
            if attempt == self._attempt:
                self._joined.add(rank)
                self._changed.notify_all()

    async def next(self, attempt: str, after: int) -> Command | str | None:
        """The command with a number above `after`; "stop"; or None when there was none for a while."""

        def news() -> Command | str | None:
            if self._stopping or attempt != self._attempt:
                return "stop"
            return self._command if self._command and self._command.number > after else None

        return await self._wait(news, POLL_SECONDS)

    async def reply(self, attempt: str, number: int, rank: int, result: list[Any], error: str | None) -> None:
        """A rank's answer: a list with one reference, or the error's text."""
        async with self._changed:
            if attempt == self._attempt and self._command and self._command.number == number:
                self._error = self._error or error
                self._replies[rank] = result
                self._changed.notify_all()

    async def wait_ready(self, timeout_s: float) -> str | None:
        """None once all ranks are ready, else what is missing."""

        def news() -> bool:
            return len(self._joined) == self._workers or self._ended is not None

        if await self._wait(news, timeout_s) and self._ended is None:
            return None
        return self._ended or f"{len(self._joined)} of {self._workers} workers were ready after {timeout_s:.0f} s"

    async def call(self, method: str, arguments: tuple[Any, ...], timeout_s: float) -> Outcome:
        """Run a method on every rank. A restart since the last call is told first, before anything is done."""
        async with self._turn:
            async with self._changed:
                if self._restarted:
                    self._restarted = False
                    return Outcome(restarted=True, checkpoint=self._checkpoint)
                number = self._command.number + 1 if self._command else 1
                self._command = Command(number, method, arguments)
                self._replies, self._error = {}, None
                self._changed.notify_all()
            done = await self._wait(self._call_ended, timeout_s)
            if self._restarted:
                self._restarted = False
                return Outcome(restarted=True, checkpoint=self._checkpoint)
            if self._error or self._ended:
                return Outcome(error=self._error or self._ended)
            if not done:
                missing = sorted(set(range(self._workers)) - set(self._replies))
                return Outcome(error=f"ranks {missing} gave no answer within {timeout_s:.0f} s")
            if method in ("save", "restore"):
                self._checkpoint = str(arguments[0])
            return Outcome([self._replies[rank][0] for rank in range(self._workers)])

    async def stop(self) -> None:
        """Let the train function return on every rank."""
        async with self._changed:
            self._stopping = True
            self._changed.notify_all()

    async def end(self, reason: str) -> None:
        """The train run is over, for this reason: nobody will answer any more."""
        async with self._changed:
            self._ended = reason
            self._changed.notify_all()

    def _call_ended(self) -> bool:
        return len(self._replies) == self._workers or bool(self._error) or self._restarted or self._ended is not None

    async def _wait(self, news: Any, timeout_s: float) -> Any:
        async with self._changed:
            try:
                return await asyncio.wait_for(self._changed.wait_for(news), timeout_s)
            except TimeoutError:
                return None
