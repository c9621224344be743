"""Evaluation: a whole panel, every task once, by how many the agent solves and how sure that number is."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from cluster.loop.ports import FinishedGroup, GroupTask, Rollouts
from cluster.loop.tasks import member_seeds
from envs.panels import Panel
from trajectories.errors import ConcertoError
from trajectories.files import written_aside

Z_95 = 1.959963984540054


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Rate(Frozen):
    """A success rate: `wins` of `tasks`, with its 95 % Wilson interval."""

    wins: int
    tasks: int
    rate: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.rate:.3f} [{self.low:.3f}, {self.high:.3f}]"


class TaskResult(Frozen):
    """How one task went. `failed`: the environment or the engine broke; it counts as not solved, without rewards."""

    task_id: str
    success: bool
    rewards: dict[str, float]
    turns: int
    failed: bool


class Evaluation(Frozen):
    """One pass over a panel with one way of sampling.

    Attributes:
        panel_hash: hash of the whole panel, so that two results can prove that they played the same games.
        options: the environment's options that make other tasks of the same ids, where they are not the defaults.
        limit: only the first so many tasks were played; None means all.
        temperature: 0 is greedy.
        version: version of the weights; None for a model taken as it is.
        by_type: success per kind of task, where the task ids tell it.
        rewards: mean of each named reward over all tasks.
        seconds: that it took.
    """

    model: str
    panel: str
    panel_hash: str
    options: Mapping[str, Any] = Field(default_factory=dict)
    limit: int | None
    temperature: float
    seed: int
    version: int | None
    success: Rate
    by_type: dict[str, Rate]
    rewards: dict[str, float]
    mean_turns: float
    failed: int
    tasks: tuple[TaskResult, ...]
    seconds: float = 0.0


class EvaluationFile(Frozen):
    """What `concerto eval` and a run's evaluations write."""

    evaluations: tuple[Evaluation, ...]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How an evaluation plays; each is one pass over the panel. `max_turns`: None is as in training."""

    temperature: float
    seed: int = 0
    max_turns: int | None = None


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose weights are evaluated. `version` is None for a model taken as it is."""

    model: str
    version: int | None = None


def wilson_rate(wins: int, tasks: int) -> Rate:
    """Success rate with its Wilson score interval at 95 %.

    With p = wins/tasks and z = 1.96: centre (p + z²/2n) / (1 + z²/n), half-width
    z/(1 + z²/n) · sqrt(p(1-p)/n + z²/4n²). Without tasks the interval is [0, 1].
    """
    if tasks == 0:
        return Rate(wins=0, tasks=0, rate=0.0, low=0.0, high=1.0)
    p, z2 = wins / tasks, Z_95**2
    centre = (p + z2 / (2 * tasks)) / (1 + z2 / tasks)
    half = Z_95 / (1 + z2 / tasks) * math.sqrt(p * (1 - p) / tasks + z2 / (4 * tasks**2))
    return Rate(wins=wins, tasks=tasks, rate=p, low=max(0.0, centre - half), high=min(1.0, centre + half))


def task_type(task_id: str) -> str | None:
    """The part of a task id that names its kind; None where there is none, as in WebShop's `17`.

    >>> task_type("valid_seen/pick_two_obj_and_place-Mug-None-Desk-308/trial_T2019")
    'pick_two_obj_and_place'
    """
    folders = task_id.split("/")[:-1]
    return folders[-1].split("-")[0] if folders else None


async def evaluate_panel(
    rollouts: Rollouts,
    panel: Panel,
    sampling: Sampling,
    subject: Subject,
    limit: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Play every task of the panel once (the first `limit` of them), as many at a time as the actors hold."""
    started, task_ids = time.monotonic(), panel.task_ids[:limit]
    free = asyncio.Semaphore(rollouts.room(1))
    done = 0

    async def play(position: int, task_id: str) -> TaskResult:
        nonlocal done
        async with free:
            group_id = f"eval-{panel.name}-{sampling.temperature:g}-{sampling.seed}-{subject.version}-{position}"
            seeds = member_seeds(sampling.seed, position, 1)
            temperature, max_turns = sampling.temperature, sampling.max_turns
            finished = await rollouts.run_group(
                GroupTask(group_id, panel.environment, task_id, seeds, temperature, panel.split, max_turns)
            )
        done += 1
        progress(done, len(task_ids))
        return _task_result(task_id, finished)

    try:
        async with asyncio.TaskGroup() as group:
            plays = [group.create_task(play(position, task_id)) for position, task_id in enumerate(task_ids)]
    except* ConcertoError as errors:
        raise errors.exceptions[0] from None
    results = [task.result() for task in plays]
    kinds = sorted({kind for result in results if (kind := task_type(result.task_id))})
    by_type = {kind: [result for result in results if task_type(result.task_id) == kind] for kind in kinds}
    names = dict.fromkeys(name for result in results for name in result.rewards)
    return Evaluation(
        model=subject.model,
        panel=panel.name,
        panel_hash=panel.hash,
        options=panel.options,
        limit=limit,
        temperature=sampling.temperature,
        seed=sampling.seed,
        version=subject.version,
        success=_rate(results),
        by_type={kind: _rate(of_kind) for kind, of_kind in by_type.items()},
        rewards={name: sum(result.rewards.get(name, 0.0) for result in results) / len(results) for name in names},
        mean_turns=sum(result.turns for result in results) / max(1, len(results)),
        failed=sum(result.failed for result in results),
        tasks=tuple(results),
        seconds=time.monotonic() - started,
    )


def write_evaluations(path: Path, evaluations: tuple[Evaluation, ...]) -> None:
    """Write the evaluations as one JSON file, aside and renamed."""
    with written_aside(path) as aside:
        aside.write_text(EvaluationFile(evaluations=evaluations).model_dump_json(indent=1) + "\n", encoding="utf-8")


def read_evaluations(path: Path) -> tuple[Evaluation, ...]:
    return EvaluationFile.model_validate_json(path.read_text(encoding="utf-8")).evaluations


def _task_result(task_id: str, finished: FinishedGroup) -> TaskResult:
    return TaskResult(
        task_id=task_id,
        success=finished.successes > 0,
        rewards=dict(finished.rewards),
        turns=finished.turns,
        failed=finished.members == 0,
    )


def _rate(results: list[TaskResult]) -> Rate:
    return wilson_rate(sum(result.success for result in results), len(results))
