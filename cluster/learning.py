"""The learner workers, seen as one: `RayLearner` is the control loop's `Learner` on a Ray Train worker group."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray

from cluster.interfaces import Scores
from learners.group import LearnerGroup
from router.probe import ProbeResult


class RayLearner:
    """Turns references to groups and rows of demonstrations into learner steps; token data never comes here.

    Args:
        router: handle of the router actor.
        demonstrations: sequences table, kept row by row in the object store.
    """

    def __init__(self, group: LearnerGroup, router: Any, demonstrations: pa.Table) -> None:
        self._group, self._router = group, router
        self._starting: asyncio.Future[None] | None = None
        self._rows = [ray.put(demonstrations.take([row])) for row in range(demonstrations.num_rows)]
        self._row_ids = demonstrations["sequence_id"].to_pylist()

    def start(self, timeout_s: float) -> None:
        """Begin to start the workers; `ready` waits for them."""
        self._starting = asyncio.ensure_future(asyncio.to_thread(self._group.start, timeout_s))

    async def ready(self) -> None:
        """Raises LearnerError when the workers do not start, with what was waited for."""
        assert self._starting is not None, "call start first"
        await self._starting

    async def stop(self) -> None:
        """End the workers, also when they are still starting."""
        if self._starting is not None:
            await asyncio.gather(self._starting, return_exceptions=True)
        await asyncio.to_thread(self._group.stop)

    async def train(self, stage: str, groups: Sequence[Any], demonstrations: Sequence[int]) -> dict[str, float]:
        sequences = [tokens for _, tokens in groups] + [self._rows[row] for row in demonstrations]
        demonstrated = [self._row_ids[row] for row in demonstrations]
        pairs = [reference for group in groups for reference in group]
        assignments = self._router.assign.remote(demonstrated, *pairs)
        (metrics, *_) = await self._group.call("train", stage, sequences, assignments)
        return metrics

    async def probe(self, sequences: pa.Table, token_budget: int) -> ProbeResult:
        """See `LearnerWorker.probe`."""
        return (await self._group.call("probe", sequences, token_budget))[0]

    async def score(self, sequences: pa.Table) -> Scores:
        return (await self._group.call("score", sequences))[0]

    async def export(self, version: int) -> Any:
        return (await self._group.call_refs("export", version))[0]

    async def save(self, folder: Path) -> None:
        await self._group.call("save", str(folder.resolve()))

    async def restore(self, folder: Path) -> None:
        await self._group.call("restore", str(folder.resolve()))

    async def save_pretrained(self, folder: Path) -> None:
        """A Hugging Face model directory, for `concerto eval` and for users."""
        await self._group.call("save_pretrained", str(folder.resolve()))
