"""Who is admitted to the engine: many requests at once, or one publication."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Admission:
    """Open, it lets any number of requests in. Closed, it holds new ones back.

    A publication closes it and waits until everyone inside has left, so every response is sampled by one version of
    the weights, on keys and values of that version. Used from one event loop.
    """

    def __init__(self) -> None:
        self._inside = 0
        self._closers = 0
        self._changed = asyncio.Condition()

    @property
    def inside(self) -> int:
        """Requests inside now."""
        return self._inside

    @asynccontextmanager
    async def admitted(self) -> AsyncIterator[None]:
        """Wait until it is open and be inside."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._closers == 0)
            self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1
            await self._notify()

    async def close(self, timeout_s: float) -> None:
        """Hold back new requests and wait until none is inside. Closing twice needs opening twice.

        Raises:
            TimeoutError: some are still inside after `timeout_s`; it is then as it was before.
        """
        self._closers += 1
        try:
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(lambda: self._inside == 0)
        except BaseException:
            await self.open()
            raise

    async def open(self) -> None:
        """Undo one `close`."""
        if self._closers == 0:
            raise RuntimeError("admission is open already")
        self._closers -= 1
        await self._notify()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()
