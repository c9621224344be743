"""What was trained goes to disk while the run goes on: a bounded backlog between the loop and the recorder."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from cluster.loop.ports import Recorder

BACKLOG = 4
"""Parts that may wait to be written; a disk that falls behind further slows the run down instead of filling memory."""


class Recording:
    """Has the parts of the trajectory store written, one a learner step, and knows which are not on disk yet."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._unwritten: list[asyncio.Task[None]] = []

    async def add(self, part: int, groups: Sequence[Any], assignments: pa.Table | None) -> None:
        """Have the groups behind these handles written as part `part`; waits only when `BACKLOG` parts do already.

        Raises what the recorder raised over an earlier part.
        """
        while len(self._unwritten) >= BACKLOG or any(task.done() for task in self._unwritten):
            await self._settle()
        write = self._recorder.write(part, groups, assignments)
        self._unwritten.append(asyncio.create_task(write, name=f"part {part}"))

    async def flush(self) -> None:
        """Wait until every part is on disk. Raises what the recorder raised over one."""
        while self._unwritten:
            await self._settle()

    async def close(self) -> None:
        """Wait for nothing more: a part that no checkpoint counts is written again on resume."""
        for task in self._unwritten:
            task.cancel()
        await asyncio.gather(*self._unwritten, return_exceptions=True)

    async def _settle(self) -> None:
        """Wait until a part is on disk, or more."""
        done, _ = await asyncio.wait(self._unwritten, return_when=asyncio.FIRST_COMPLETED)
        self._unwritten = [task for task in self._unwritten if task not in done]
        for task in done:
            task.result()
