"""The learner workers, seen as one: `RayLearner` is the control loop's `Learner` on a pool of Ray Train workers."""

from __future__ import annotations

import asyncio
import pickle
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import RayTaskError

from actors.conductor import RemoteConductor
from cluster.loop.ports import Scores, Trained
from learners.objectives.assign import completed_assignments
from learners.rewards.conductor_head import ConductorScalariser
from learners.rewards.reward_batch import ConstantWatch, RewardBatch
from learners.rewards.reward_settings import ConductorSettings
from learners.rewards.scalarisers import Advantage, reward_weight_metrics
from learners.workers.pool import LearnerPool
from router.online import OnlineRouter
from router.probe import ProbeResult
from trajectories.errors import UserError

ROUTER_FILE, CONDUCTOR_FILE = "router.pickle", "conductor.pickle"


@dataclass(slots=True)
class OnlineRouting:
    """Mixed steps are routed group by group.

    Attributes:
        token_budget: tokens of one pass of the probe; None where the policy needs no probe.
        demonstrations: reference to the table of those that a group's task may have.
    """

    router: OnlineRouter
    token_budget: int | None
    demonstrations: Any


@dataclass(frozen=True, slots=True)
class ConductorWeighing:
    """Rewards are weighed by the Conductor.

    Attributes:
        advantage: how the weighed rewards of a group compare.
        seed: seed of the channels that are sampled.
    """

    conductor: RemoteConductor
    config: ConductorSettings
    advantage: Advantage
    seed: int


class RayLearner:
    """Turns references to groups and rows of demonstrations into learner steps; token data never comes here.

    Args:
        router: handle of the router actor.
        demonstrations: sequences table, kept row by row in the object store.
        online: None where mixed steps train on groups and demonstrations as they come.
        weighing: None where the router actor gives the advantages.
        watch: finds reward channels that never change, where several are weighed.
        reads: some reward channels depend on the policy's view, so it reads the rollouts before every step.
    """

    def __init__(
        self,
        pool: LearnerPool,
        router: Any,
        demonstrations: pa.Table,
        online: OnlineRouting | None = None,
        weighing: ConductorWeighing | None = None,
        watch: ConstantWatch | None = None,
        reads: bool = False,
    ) -> None:
        self._pool, self._router, self._watch = pool, router, watch
        self._reads = reads
        self.online, self.weighing = online, weighing
        self._starting: asyncio.Future[None] | None = None
        self._rows = [ray.put(demonstrations.take([row])) for row in range(demonstrations.num_rows)]
        self._row_ids = demonstrations["sequence_id"].to_pylist()

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

    async def train(self, stage: str, groups: Sequence[Any], demonstrations: Sequence[int]) -> Trained:
        """Where mixed steps are routed online, each group brings its own demonstration, and those given stay out.

        Raises:
            UserError: an episode lacks a reward channel, or a channel never changes.
            WorkersLost: the Conductor died.
        """
        with _own_words():
            if stage == "mixed" and self.online is not None:
                return await self._train_online(self.online, groups)
            sequences = [tokens for _, tokens in groups] + [self._rows[row] for row in demonstrations]
            demonstrated = [self._row_ids[row] for row in demonstrations]
            assign = self._router.assign.options(num_returns=3)
            reading, read_s = await self._read(groups)
            assignments, batch, metrics = assign.remote(demonstrated, reading, *_flat(groups))
            if groups:
                return await self._train_groups(stage, sequences, assignments, await batch, await metrics | read_s)
            (trained, *_) = await self._pool.call("train", stage, sequences, assignments)
            return Trained(trained)

    async def _read(self, groups: Sequence[Any]) -> tuple[Any, dict[str, float]]:
        """Reference to what the policy makes of the groups, and the time that took."""
        if not self._reads or not groups:
            return None, {}
        started = time.monotonic()
        (reading, *_) = await self._pool.call_refs("read", self._router.to_read.remote(*_flat(groups)))
        return reading, {"read_s": time.monotonic() - started}

    async def _train_online(self, online: OnlineRouting, groups: Sequence[Any]) -> Trained:
        started, probed, probe_s = time.monotonic(), None, {}
        asked = self._router.references.options(num_returns=3).remote(online.demonstrations, *_flat(groups))
        experts, own, count = asked
        if online.token_budget is not None and await count:
            (probed, *_) = await self._pool.call_refs("probe", [experts, own], online.token_budget)
            probe_s = {"probe_s": time.monotonic() - started}
        reading, read_s = await self._read(groups)
        route = self._router.route.options(num_returns=4)
        routed = route.remote(online.router, probed, experts, own, reading, *_flat(groups))
        assignments, batch, metrics, router = routed
        online.router = await router
        sequences = [tokens for _, tokens in groups] + [experts]
        metrics = await metrics | probe_s | read_s
        return await self._train_groups("mixed", sequences, assignments, await batch, metrics)

    async def _train_groups(
        self, stage: str, sequences: list[Any], assignments: Any, batch: RewardBatch, metrics: dict[str, float]
    ) -> Trained:
        if self._watch is not None:
            self._watch.observe(batch)
        if self.weighing is None:
            (trained, *_) = await self._pool.call("train", stage, sequences, assignments)
            return Trained(trained | metrics, await assignments)
        return await self._train_weighing(self.weighing, stage, sequences, assignments, batch, metrics)

    async def _train_weighing(
        self,
        weighing: ConductorWeighing,
        stage: str,
        sequences: list[Any],
        assignments: Any,
        batch: RewardBatch,
        metrics: dict[str, float],
    ) -> Trained:
        """The workers weigh by the Conductor's present parameters; what that earned goes back to the Conductor."""
        head = await weighing.conductor.head()
        scalarise = ConductorScalariser(head, weighing.config, weighing.advantage, weighing.seed)
        answers = await self._pool.call("train_weighing", stage, sequences, assignments, batch, scalarise)
        trained, weighed = answers[0]
        if weighed is None:
            return Trained(trained | metrics, await assignments)
        metrics = metrics | reward_weight_metrics(batch.names, weighed.scalarised)
        earned = scalarise.meta_rewards(batch.take(weighed.rows), weighed.scalarised.advantages)
        choices = weighed.scalarised.choices
        metrics |= await weighing.conductor.observe(weighed.contexts, choices, earned)
        complete = completed_assignments(await assignments, weighed.advantages, head.version)
        return Trained(trained | metrics, complete)

    async def probe(self, sequences: pa.Table, token_budget: int) -> ProbeResult:
        """See `LearnerWorker.probe`."""
        return (await self._pool.call("probe", sequences, token_budget))[0]

    async def score(self, sequences: pa.Table) -> Scores:
        return (await self._pool.call("score", sequences))[0]

    async def export(self, version: int) -> Any:
        return (await self._pool.call_refs("export", version))[0]

    async def save(self, folder: Path) -> None:
        await self._pool.call("save", str(folder.resolve()))
        if self.online is not None:
            (folder / ROUTER_FILE).write_bytes(pickle.dumps(self.online.router))
        if self.weighing is not None:
            (folder / CONDUCTOR_FILE).write_bytes(pickle.dumps(await self.weighing.conductor.state()))

    async def restore(self, folder: Path) -> None:
        await self._pool.call("restore", str(folder.resolve()))
        if self.online is not None:
            self.online.router = pickle.loads((folder / ROUTER_FILE).read_bytes())
        if self.weighing is not None:
            await self.weighing.conductor.restore(pickle.loads((folder / CONDUCTOR_FILE).read_bytes()))

    async def save_pretrained(self, folder: Path) -> None:
        """A Hugging Face model directory, for `concerto eval` and for users."""
        await self._pool.call("save_pretrained", str(folder.resolve()))


def _flat(groups: Sequence[Any]) -> list[Any]:
    """Episodes and sequences of each group, in turn: arguments of their own, so that Ray resolves them."""
    return [reference for group in groups for reference in group]


@contextmanager
def _own_words() -> Iterator[None]:
    """An error of ours that an actor raised, as it was raised there: one line, not Ray's report."""
    try:
        yield
    except RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        raise
