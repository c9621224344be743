"""The learner workers, seen as one: `RayLearner` is the control loop's `Learner` on a Ray Train worker group."""

from __future__ import annotations

import asyncio
import pickle
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray

from cluster.interfaces import Scores, Trained
from learners.group import LearnerGroup
from router.online import OnlineRouter
from router.probe import ProbeResult

ROUTER_FILE = "router.pickle"


@dataclass(slots=True)
class OnlineRouting:
    """Mixed steps are routed group by group.

    Attributes:
        token_budget: of one pass of the probe; None where the policy needs no probe.
        demonstrations: reference to the table of those that a group's task may have.
    """

    router: OnlineRouter
    token_budget: int | None
    demonstrations: Any


class RayLearner:
    """Turns references to groups and rows of demonstrations into learner steps; token data never comes here.

    Args:
        router: handle of the router actor.
        demonstrations: sequences table, kept row by row in the object store.
        online: None where mixed steps train on groups and demonstrations as they come.
    """

    def __init__(
        self, group: LearnerGroup, router: Any, demonstrations: pa.Table, online: OnlineRouting | None = None
    ) -> None:
        self._group, self._router, self.online = group, router, online
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

    async def train(self, stage: str, groups: Sequence[Any], demonstrations: Sequence[int]) -> Trained:
        """Where mixed steps are routed online, each group brings its own demonstration, and those given stay out."""
        if stage == "mixed" and self.online is not None:
            return await self._train_online(self.online, groups)
        sequences = [tokens for _, tokens in groups] + [self._rows[row] for row in demonstrations]
        demonstrated = [self._row_ids[row] for row in demonstrations]
        assignments = self._router.assign.remote(demonstrated, *_flat(groups))
        (metrics, *_) = await self._group.call("train", stage, sequences, assignments)
        return Trained(metrics, await assignments if groups else None)

    async def _train_online(self, online: OnlineRouting, groups: Sequence[Any]) -> Trained:
        started, probed, metrics = time.monotonic(), None, {}
        asked = self._router.references.options(num_returns=3).remote(online.demonstrations, *_flat(groups))
        experts, own, count = asked
        if online.token_budget is not None and await count:
            (probed, *_) = await self._group.call_refs("probe", [experts, own], online.token_budget)
            metrics["probe_s"] = time.monotonic() - started
        routed = self._router.route.options(num_returns=3).remote(online.router, probed, experts, own, *_flat(groups))
        assignments, router, counts = routed
        metrics |= await counts
        online.router = await router
        sequences = [tokens for _, tokens in groups] + [experts]
        (trained, *_) = await self._group.call("train", "mixed", sequences, assignments)
        return Trained(trained | metrics, await assignments)

    async def probe(self, sequences: pa.Table, token_budget: int) -> ProbeResult:
        """See `LearnerWorker.probe`."""
        return (await self._group.call("probe", sequences, token_budget))[0]

    async def score(self, sequences: pa.Table) -> Scores:
        return (await self._group.call("score", sequences))[0]

    async def export(self, version: int) -> Any:
        return (await self._group.call_refs("export", version))[0]

    async def save(self, folder: Path) -> None:
        await self._group.call("save", str(folder.resolve()))
        if self.online is not None:
            (folder / ROUTER_FILE).write_bytes(pickle.dumps(self.online.router))

    async def restore(self, folder: Path) -> None:
        await self._group.call("restore", str(folder.resolve()))
        if self.online is not None:
            self.online.router = pickle.loads((folder / ROUTER_FILE).read_bytes())

    async def save_pretrained(self, folder: Path) -> None:
        """A Hugging Face model directory, for `concerto eval` and for users."""
        await self._group.call("save_pretrained", str(folder.resolve()))


def _flat(groups: Sequence[Any]) -> list[Any]:
    """Episodes and sequences of each group, in turn: arguments of their own, so that Ray resolves them."""
    return [reference for group in groups for reference in group]
