"""The learner workers, seen as one: `RayLearner` is the control loop's `Learner` on a pool of Ray Train workers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from actors.group_references import GroupReferences, StepGroups
from cluster.loop.ports import Trained
from cluster.runtime.steps import Routing, Training
from cluster.runtime.weights import Lives, LiveWeights, Publication, StoredWeights, Weights
from learners.policy.parity import Scores
from learners.workers.losses import own_words, told_as_lost
from learners.workers.pool import Pool
from router.probe import ProbeResult
from router.probing import Probing

logger = logging.getLogger(__name__)


class RayLearner:
    """Turns references to groups and rows of demonstrations into learner steps; token data never comes here.

    Args:
        routing: prepares the steps.
        training: has the workers train them.
        publication: how weights travel.
        look: is told what routing says of each step.
    """

    def __init__(
        self,
        pool: Pool,
        routing: Routing,
        training: Training,
        publication: Publication,
        look: Callable[[Mapping[str, float]], Awaitable[None]] | None = None,
    ) -> None:
        self._pool, self._routing, self._training = pool, routing, training
        self._publication, self._look = publication, look
        self._starting: asyncio.Future[None] | None = None
        self._lock = asyncio.Lock()
        self._live: LiveWeights | None = None

    def start(self, timeout_s: float) -> None:
        """Begin to start the workers; `ready` waits for them."""
        self._starting = asyncio.ensure_future(asyncio.to_thread(self._pool.start, timeout_s))

    async def ready(self) -> None:
        """Raises WorkersLost when the workers do not start, with what was waited for."""
        assert self._starting is not None, "call start first"
        await self._starting

    async def stop(self) -> None:
        """End the workers, also when they are still starting."""
        if self._starting is not None:
            await asyncio.gather(self._starting, return_exceptions=True)
        await asyncio.to_thread(self._pool.stop)

    async def train(self, stage: str, groups: Sequence[GroupReferences], demonstrations: Sequence[int]) -> Trained:
        """See `cluster.loop.ports.Learner`; `groups` are the handles that `RolloutFleet` gave.

        Raises:
            UserError: an episode lacks a reward channel, or a channel never changes.
            WorkersLost: learner workers or the Conductor died, or a group was lost with its node.
        """
        with own_words(), told_as_lost("a group of the step"):
            played = StepGroups(tuple(groups))
            step = await self._routing.prepare(stage, played, demonstrations)
            if self._look is not None:
                await self._look(step.metrics)
            if self._live is not None:
                self._live.superseded = True
            async with self._lock:
                return await self._training.train(step)

    async def probe(self, sequences: pa.Table, probing: Probing) -> ProbeResult:
        """See `LearnerWorker.probe`."""
        return (await self._pool.call("probe", sequences, probing))[0]

    async def fingerprint(self, probing: Probing) -> str:
        """See `LearnerWorker.fingerprint`."""
        return (await self._pool.call("fingerprint", probing))[0]

    async def score(self, sequences: pa.Table) -> Scores:
        """See `LearnerWorker.score`; a reference to the table does as well."""
        return (await self._pool.call("score", sequences))[0]

    async def export(self, version: int) -> Weights:
        """The present weights; all of them only until the next step."""
        how = self._publication
        if how.adapters:
            return StoredWeights((await self._pool.call_refs("export", version))[0])
        address = (await self._pool.call("address"))[0]
        self._live = LiveWeights(version, address, self._send, self._lock, how.processes)
        return self._live

    async def _send(self, lives: Lives) -> None:
        # Twice: engines wait for running responses, then they take the weights, each within a deadline of their own.
        (failed, *_) = await self._pool.call("send", lives, 2 * self._publication.timeout_s)
        for name, why in failed.items():
            logger.warning("weights did not reach %s: %s", name, why)

    async def begin_save(self, folder: Path) -> None:
        await self._pool.call("begin_save", str(folder.resolve()))
        for part in (self._routing, self._training):
            await part.save(folder)

    async def end_save(self) -> None:
        await self._pool.call("end_save")

    async def restore(self, folder: Path) -> None:
        await self._pool.call("restore", str(folder.resolve()))
        for part in (self._routing, self._training):
            await part.restore(folder)

    async def save_pretrained(self, folder: Path) -> None:
        """A Hugging Face model directory, for `concerto eval` and for users."""
        await self._pool.call("save_pretrained", str(folder.resolve()))
