"""What the control loop needs of the outside world: small protocols, so that tests drive it with simulated parts.

The handle in `FinishedGroup.data` is whatever `Rollouts` makes of a group's tables (an object reference on Ray);
the loop passes it on and never looks inside.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import torch

from cluster.config.sections import Stage
from experience.advice import Advice
from learners.objectives.advantages import zero_variance
from trajectories.schema import episodes_from_table, reward_names
from trajectories.types import StopReason


@dataclass(frozen=True, slots=True)
class GroupTask:
    """One task of an environment to be played `len(seeds)` times by the same policy.

    Attributes:
        temperature: temperature of sampling; 0 is greedy (evaluation only).
        max_turns: turns after which an episode is cut off; None as in training.
        advice: what is known of its kind of task; None where nobody keeps experience.
    """

    group_id: str
    environment: str
    task_id: str
    seeds: tuple[int, ...]
    temperature: float
    split: str
    max_turns: int | None = None
    advice: Advice | None = None


@dataclass(frozen=True, slots=True)
class FinishedGroup:
    """What the loop knows of a finished group.

    Attributes:
        members: episodes that ended properly; `successes` of them solved the task.
        failed: episodes that the environment or the engine ended, after all retries.
        truncated: members that a limit on turns or tokens cut off.
        length_limited: those of them for which the model's context was too short.
        oldest_version: oldest weights that sampled any of its tokens.
        turns: turns of all members together.
        rewards: mean of each named reward over the members; empty without members.
        varied: the rewards in which the members differ.
        data: handle of its tables.
    """

    environment: str
    members: int
    successes: int
    failed: int
    truncated: int
    length_limited: int
    oldest_version: int
    turns: int
    rewards: Mapping[str, float]
    varied: frozenset[str]
    data: Any

    def is_informative(self, compared: Sequence[str]) -> bool:
        """Whether the members differ in one of the rewards `compared`, so that comparing them teaches something.

        A reward that no environment gives is known to the router only; the members count as different in it.
        """
        return any(name in self.varied or name not in self.rewards for name in compared)


def finished_group(episodes: pa.Table, data: Any) -> FinishedGroup:
    """Sum up a group's episodes table. Episodes that ended in an error are no members."""
    rows = episodes_from_table(episodes)
    members = [row for row in rows if row.stop_reason is not StopReason.ERROR]
    by_name = {name: [row.rewards[name] for row in members] for name in reward_names(episodes)} if members else {}
    return FinishedGroup(
        environment=rows[0].environment,
        members=len(members),
        successes=sum(row.success for row in members),
        failed=len(rows) - len(members),
        truncated=sum(row.stop_reason.truncated for row in members),
        length_limited=sum(row.stop_reason is StopReason.LENGTH_LIMIT for row in members),
        oldest_version=min((row.version_min for row in members), default=0),
        turns=sum(row.turns for row in members),
        rewards={name: sum(values) / len(values) for name, values in by_name.items()},
        varied=frozenset(name for name, values in by_name.items() if _vary(values)),
        data=data,
    )


def _vary(values: Sequence[float]) -> bool:
    """Whether the values of one group differ, by the bound that advantages go by."""
    one_group = torch.zeros(len(values), dtype=torch.int64)
    return not zero_variance(torch.tensor(values, dtype=torch.float64), one_group).any()


@dataclass(frozen=True, slots=True)
class Trained:
    """What came of a learner step.

    Attributes:
        metrics: `trained_tokens` is among them.
        assignments: route, weights and advantages of every sequence of its groups; None for a step without groups.
    """

    metrics: dict[str, float]
    assignments: pa.Table | None = None


class Rollouts(Protocol):
    """The rollout actors, seen as one."""

    def room(self, members: int) -> int:
        """Groups of so many members that may be in hand at once, running or about to."""
        ...

    async def run_group(self, task: GroupTask) -> FinishedGroup:
        """Plays a whole group; survives dying actors and environments up to its budgets."""
        ...


class Recorder(Protocol):
    """What writes token data to disk, past the loop. Every method may raise RunError, with the recorder's own words."""

    async def truncate(self, parts: int) -> None:
        """Forget the trajectories from part `parts` on: they belong to steps that no checkpoint holds."""
        ...

    async def write(self, part: int, groups: Sequence[Any], assignments: pa.Table | None) -> None:
        """Write the groups behind these handles, and what a step made of them; they are on disk when it returns."""
        ...

    async def keep(self, folder: Path, ready: Mapping[int, Any]) -> None:
        """Write finished groups that are not trained yet, given by position, to a folder of a checkpoint."""
        ...

    async def read(self, folder: Path, position: int) -> FinishedGroup:
        """A group that `keep` wrote, with a handle for its tables."""
        ...


class Learner(Protocol):
    """The learner workers, seen as one."""

    async def train(self, stage: str, groups: Sequence[Any], demonstrations: Sequence[int]) -> Trained:
        """One learner step on the groups behind these handles and on demonstrations, given by row."""
        ...

    async def begin_save(self, folder: Path) -> None:
        """Copies its state, and begins to write it to a folder that is not there yet."""
        ...

    async def end_save(self) -> None:
        """Waits until that is written."""
        ...

    async def restore(self, folder: Path) -> None: ...


class Observer(Protocol):
    """Someone who is told what happens: the metrics files, the terminal."""

    def stage(self, stage: Stage, done: int) -> None: ...

    def step(self, step: int, stage: str, metrics: dict[str, float]) -> None: ...

    def say(self, line: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Parts:
    """The outside world of a run.

    Attributes:
        publish: puts the learner's weights of this version into the engines; the metrics of the parity check.
        evaluate: plays the evaluation panels and writes the result under this name.
        keep_best: keeps the learner's weights if that result, which is of them, is the best so far.
        gauges: more metrics of a step, of parts that the loop does not know.
        memory: the present snapshot of the memory of experience; None where there is none.
    """

    rollouts: Rollouts
    learner: Learner
    recorder: Recorder
    publish: Callable[[int], Awaitable[dict[str, float]]]
    evaluate: Callable[[str], Coroutine[Any, Any, None]]
    keep_best: Callable[[str], Awaitable[None]]
    observer: Observer
    gauges: Callable[[], dict[str, float]] = dict
    memory: Callable[[], int | None] = lambda: None
