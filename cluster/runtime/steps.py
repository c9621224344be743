"""What a learner step is made of: who routes its sequences, and who gives the advantages of its groups.

`PlainRouting` or `OnlineRouting` prepares a step, `PlainTraining` or `ConductedTraining` has the workers train it: a
run chooses one of each. They pass references on; token data never comes here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from actors import runtime
from actors.conductor import RemoteConductor
from actors.group_references import StepGroups
from cluster.loop.ports import Trained
from learners.objectives.assign import completed_assignments
from learners.rewards.conductor_head import ConductorScalariser, kind_metrics
from learners.rewards.reward_batch import ConstantWatch, RewardBatch
from learners.rewards.reward_settings import ConductorSettings
from learners.rewards.scalarisers import Advantage, reward_weight_metrics
from learners.workers.pool import Pool
from router.online import OnlineRouter
from router.probing import Probing
from trajectories.errors import RunError
from trajectories.state_files import read_state, write_state

ROUTER_FILE, CONDUCTOR_FILE = "router.safetensors", "conductor.safetensors"
ROUTER_S = 1800.0
"""Seconds that the router actor may take over what a step needs of it, its raters and what it waits for included."""


@dataclass(frozen=True, slots=True)
class PreparedStep:
    """A step that the router actor has stamped, ready for the workers.

    Attributes:
        groups: those that were played for it; a step of demonstrations has none.
        sequences: references to the sequences tables, of groups and of demonstrations.
        assignments: reference to the assignments of all these sequences.
        rewards: reference to the `RewardBatch` of the groups that GRPO trains on. Fetch it where it is read.
        metrics: what routing says of the step.
    """

    stage: str
    groups: StepGroups
    sequences: list[Any]
    assignments: Any
    rewards: Any
    metrics: dict[str, float]


class Stateful(Protocol):
    """What may remember something from one step to the next."""

    async def save(self, folder: Path) -> None:
        """Write what it remembers, if anything, beside the workers' checkpoint."""
        ...

    async def restore(self, folder: Path) -> None:
        """Take back what `save` wrote."""
        ...


class Routing(Stateful, Protocol):
    """Prepares steps."""

    async def prepare(self, stage: str, groups: StepGroups, demonstrations: Sequence[int]) -> PreparedStep:
        """Have `actors.router.RouterActor` give every sequence of a step its route, and every turn its advantage.

        Args:
            demonstrations: those of the step, by row.
        Raises:
            UserError: an episode lacks a reward channel.
        """
        ...


class Training(Stateful, Protocol):
    """Has steps trained."""

    async def train(self, step: PreparedStep) -> Trained:
        """One learner step. Raises UserError and WorkersLost."""
        ...


class Stateless:
    """What has nothing to remember."""

    async def save(self, folder: Path) -> None: ...

    async def restore(self, folder: Path) -> None: ...


class NothingToRead:
    """No reward channel depends on the policy's view of a rollout."""

    async def read(self, groups: StepGroups) -> tuple[Any, dict[str, float]]:
        """No reading, no metrics."""
        return None, {}


@dataclass(frozen=True, slots=True)
class PolicyReader:
    """The policy reads the rollouts before every step, for reward channels that depend on its view of them."""

    pool: Pool
    router: Any

    async def read(self, groups: StepGroups) -> tuple[Any, dict[str, float]]:
        """Reference to the `Reading` of what the router actor asks for, and its seconds; nothing without groups."""
        if not groups.groups:
            return None, {}
        started = time.monotonic()
        (reading, *_) = await self.pool.call_refs("read", self.router.to_read.remote(groups))
        return reading, {"read_s": time.monotonic() - started}


class PlainRouting(Stateless):
    """Groups go to GRPO and demonstrations to SFT, as they come.

    Args:
        router: handle of the router actor.
        reader: gives the router actor what it needs to know of the policy.
        demonstrations: sequences table, kept row by row in the object store.
    """

    def __init__(self, router: Any, reader: NothingToRead | PolicyReader, demonstrations: pa.Table) -> None:
        self.router, self.reader = router, reader
        self._rows = [runtime.put(demonstrations.take([row])) for row in range(demonstrations.num_rows)]
        self._row_ids = demonstrations["sequence_id"].to_pylist()

    async def prepare(self, stage: str, groups: StepGroups, demonstrations: Sequence[int]) -> PreparedStep:
        reading, seconds = await self.reader.read(groups)
        shown = [self._row_ids[row] for row in demonstrations]
        assignments, rewards, metrics = self.router.assign.remote(shown, reading, groups)
        sequences = [group.sequences for group in groups.groups] + [self._rows[row] for row in demonstrations]
        return PreparedStep(stage, groups, sequences, assignments, rewards, await made(metrics) | seconds)


class OnlineRouting:
    """Mixed steps are routed group by group: each group brings its own demonstration, those given stay out.

    Args:
        plain: prepares the steps of the other stages.
        memory: the policy that routes, with what it remembers.
        probing: how the workers probe; None where the policy needs no probe.
        demonstrations: reference to the table of those that a group's task may have.
    """

    def __init__(
        self,
        plain: PlainRouting,
        pool: Pool,
        memory: OnlineRouter,
        probing: Probing | None,
        demonstrations: Any,
    ) -> None:
        self.memory = memory
        self._plain, self._pool = plain, pool
        self._probing, self._demonstrations = probing, demonstrations

    async def prepare(self, stage: str, groups: StepGroups, demonstrations: Sequence[int]) -> PreparedStep:
        if stage != "mixed":
            return await self._plain.prepare(stage, groups, demonstrations)
        router = self._plain.router
        experts, own, count = router.references.remote(self._demonstrations, groups)
        probed, probe_s = await self._probe(experts, own, count)
        reading, read_s = await self._plain.reader.read(groups)
        routed = router.route.remote(self.memory, probed, experts, own, reading, groups)
        assignments, rewards, metrics, memory = routed
        self.memory = await made(memory)
        sequences = [*(group.sequences for group in groups.groups), experts]
        return PreparedStep(stage, groups, sequences, assignments, rewards, await made(metrics) | probe_s | read_s)

    async def save(self, folder: Path) -> None:
        write_state(folder / ROUTER_FILE, self.memory.state())

    async def restore(self, folder: Path) -> None:
        self.memory.restore(read_state(folder / ROUTER_FILE))

    async def _probe(self, experts: Any, own: Any, count: Any) -> tuple[Any, dict[str, float]]:
        """Reference to what the probe makes of the reference trajectories, where there are any, and its seconds."""
        started = time.monotonic()
        if self._probing is None or not await made(count):
            return None, {}
        (probed, *_) = await self._pool.call_refs("probe", [experts, own], self._probing)
        return probed, {"probe_s": time.monotonic() - started}


class PlainTraining(Stateless):
    """The advantages are those that the router actor gave.

    Args:
        watch: finds reward channels that never change; None where the advantages are made of one channel, which may.
    """

    def __init__(self, pool: Pool, watch: ConstantWatch | None) -> None:
        self._pool, self._watch = pool, watch

    async def train(self, step: PreparedStep) -> Trained:
        if self._watch is not None and step.groups.groups:
            self._watch.observe(await made(step.rewards))
        return await train_as_assigned(self._pool, step)


class ConductedTraining:
    """The Conductor weighs the rewards: the workers find the advantages in the pass that trains, by its present
    parameters, and what that earned goes back to it.

    Args:
        advantage: how the weighed rewards of a group compare.
        seed: seed of the channels that are sampled.
        watch: finds reward channels that never change.
    """

    def __init__(
        self,
        pool: Pool,
        conductor: RemoteConductor,
        config: ConductorSettings,
        advantage: Advantage,
        seed: int,
        watch: ConstantWatch,
    ) -> None:
        self._pool, self._conductor, self._watch = pool, conductor, watch
        self._config, self._advantage, self._seed = config, advantage, seed

    async def train(self, step: PreparedStep) -> Trained:
        if not step.groups.groups:
            return await train_as_assigned(self._pool, step)
        rewards: RewardBatch = await made(step.rewards)
        self._watch.observe(rewards)
        head = await self._conductor.head()
        scalarise = ConductorScalariser(head, self._config, self._advantage, self._seed)
        answers = await self._pool.call(
            "train_weighing", step.stage, step.sequences, step.assignments, step.rewards, scalarise
        )
        trained, weighed = answers[0]
        if weighed is None:
            return Trained(trained | step.metrics, await made(step.assignments))
        explored = rewards.take(weighed.rows)
        earned = scalarise.meta_rewards(rewards, weighed.rows, weighed.scalarised.advantages)
        metrics = step.metrics | reward_weight_metrics(rewards.names, weighed.scalarised)
        metrics |= kind_metrics(explored, weighed.scalarised.probabilities)
        metrics |= await self._conductor.observe(weighed.contexts, weighed.scalarised.choices, earned)
        complete = completed_assignments(await made(step.assignments), weighed.advantages, head.version)
        return Trained(trained | metrics, complete)

    async def save(self, folder: Path) -> None:
        write_state(folder / CONDUCTOR_FILE, await self._conductor.state())

    async def restore(self, folder: Path) -> None:
        await self._conductor.restore(read_state(folder / CONDUCTOR_FILE))


async def train_as_assigned(pool: Pool, step: PreparedStep) -> Trained:
    """A step whose assignments are complete. What became of demonstrations alone is of no interest to anybody."""
    (trained, *_) = await pool.call("train", step.stage, step.sequences, step.assignments)
    return Trained(trained | step.metrics, await made(step.assignments) if step.groups.groups else None)


async def made(reference: Awaitable[Any]) -> Any:
    """What the router actor made. Raises RunError when it does not come in time."""
    try:
        return await asyncio.wait_for(reference, ROUTER_S)
    except TimeoutError:
        raise RunError(
            f"the router actor did not give what a step needs within {ROUTER_S:g} s: look at its log, and at those of "
            "the preference model and the judge if the run has them"
        ) from None
