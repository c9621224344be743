"""The recorder actor as the control loop's `Recorder`: references go there, and the loop's errors come back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from ray.exceptions import RayTaskError

from actors.group_references import GroupReferences
from cluster.loop.ports import FinishedGroup, finished_group
from learners.workers.losses import own_words, told_as_lost
from trajectories.errors import RunError, last_line

TIMEOUT_S = 600.0
"""Seconds that a call may take, those before it included: a disk that is slower has stopped."""


class RayRecorder:
    """Hands references to the recorder actor; every wait is bounded.

    All methods raise StorageError when the disk does not take what is to be written, WorkersLost when a node is gone
    and with it a group that is not on disk, and RunError when the recorder fails otherwise, with its own words, or does
    not answer in time.
    """

    def __init__(self, actor: Any, timeout_s: float = TIMEOUT_S) -> None:
        self._actor, self._timeout_s = actor, timeout_s

    async def truncate(self, parts: int) -> None:
        await self._answer(f"forget the trajectories after part {parts}", self._actor.truncate.remote(parts))

    async def write(self, part: int, groups: Sequence[Any], assignments: pa.Table | None) -> None:
        written = self._actor.write.remote(part, groups, assignments)
        await self._answer(f"write part {part} of the trajectories", written)

    async def keep(self, folder: Path, ready: Mapping[int, Any]) -> None:
        kept = self._actor.keep.remote(folder.resolve(), ready)
        await self._answer(f"keep {len(ready)} ready groups in a checkpoint", kept)

    async def read(self, folder: Path, position: int) -> FinishedGroup:
        episodes, sequences = self._actor.read.remote(folder.resolve(), position)
        table = await self._answer(f"read the ready group {position} of {folder}", episodes)
        return finished_group(table, GroupReferences(episodes, sequences))

    async def _answer(self, what: str, reference: Awaitable[Any]) -> Any:
        try:
            with own_words(), told_as_lost(f"what is needed to {what}"):
                return await asyncio.wait_for(reference, self._timeout_s)
        except RayTaskError as error:
            raise RunError(f"the recorder could not {what}: {last_line(error)}") from error
        except TimeoutError:
            raise RunError(
                f"the recorder did not {what} within {self._timeout_s:g} s: look at its log, and whether the disk of "
                "the run directory answers"
            ) from None
