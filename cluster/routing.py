"""Staged routing: before the first stage, the base model measures the corpus, and every trajectory gets its route.

SFT then draws from the trajectories that are imitated, GRPO from the tasks of those that are explored. Both tables,
`measured.parquet` (where a probe ran) and `routes.parquet`, stay in the run directory; a resumed run reads its routes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from cluster.errors import UserError
from cluster.interfaces import GroupTask, Rollouts
from cluster.settings import ScheduleSettings
from cluster.tasks import TaskMixture, member_seeds
from router import tables
from router.batch import check
from router.config import MIXES, RouterConfig
from router.policies import make_arbiter
from router.probe import ProbeResult, concatenated
from router.scores import Candidates
from trajectories.demonstrations import demonstrated_task
from trajectories.schema import sequences_from_table
from trajectories.types import Route

MEASURED_FILE, ROUTES_FILE = "measured.parquet", "routes.parquet"
PROBED_AT_ONCE = 128
"""Sequences of one request to the learner workers: how often progress shows."""


class Prober(Protocol):
    """The learner workers."""

    async def probe(self, sequences: pa.Table, token_budget: int) -> ProbeResult: ...


@dataclass(frozen=True, slots=True)
class Routing:
    """What the stages may draw.

    Attributes:
        rows: of the demonstrations that SFT imitates.
        tasks: those on which GRPO explores.
        metrics: of the routing itself, for the record of step 0; empty where nothing was routed now.
    """

    rows: tuple[int, ...]
    tasks: TaskMixture
    metrics: dict[str, float]


def check_router(router: RouterConfig, schedule: ScheduleSettings) -> None:
    """Raises UserError when policy, mode and stages do not go together."""
    if not router.active:
        return
    if router.routes is not None:
        read_routes(Path(router.routes))
    if router.online and not schedule.mixed_steps:
        raise UserError("router.mode=online routes the mixed stage: set schedule.mixed_steps.")
    if not router.online and router.policy in MIXES:
        raise UserError(
            f"router.policy={router.policy} mixes both objectives in every step: set router.mode=online and "
            "schedule.mixed_steps."
        )
    if not router.online and schedule.sft_steps and router.policy == "all_grpo":
        raise UserError("router.policy=all_grpo sends nothing to SFT: set schedule.sft_steps=0.")
    if not router.online and schedule.grpo_steps and router.policy == "all_sft":
        raise UserError("router.policy=all_sft sends nothing to GRPO: set schedule.grpo_steps=0.")


async def route_corpus(
    run_dir: Path,
    router: RouterConfig,
    schedule: ScheduleSettings,
    seed: int,
    tasks: TaskMixture,
    demonstrations: pa.Table,
    learner: Prober,
    rollouts: Rollouts,
    progress: Callable[[str, int, int], None],
) -> Routing:
    """Read the routes of the run, or decide them by the weights that the learner holds now: those of the base model.

    Raises:
        RouterError: the corpus cannot be measured or split; nothing is written.
        UserError: a stage is left without data.
    """
    path, metrics = run_dir / ROUTES_FILE, {}
    if path.exists():
        routes = pq.read_table(path)
    elif router.routes is not None:
        routes = read_routes(Path(router.routes))
        _write(path, routes)
    else:
        started = time.monotonic()
        known = await _measure(router, seed, tasks, demonstrations, learner, rollouts, progress, schedule)
        decisions = make_arbiter(router, seed).decide(known.candidates)
        routes = tables.routes(known.candidates.ids, decisions)
        if known.measured is not None:
            _write(run_dir / MEASURED_FILE, known.measured)
        _write(path, routes)
        metrics = route_metrics(routes) | {"probe_s": known.probe_s, "routing_s": time.monotonic() - started}
    return _routing(routes, demonstrations, tasks, schedule, metrics)


def read_routes(path: Path) -> pa.Table:
    """The file that `concerto route` wrote. Raises UserError when there is none."""
    try:
        routes = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"cannot read router.routes={path}: {str(error).strip().splitlines()[0]}") from None
    tables.check_columns(routes, tables.ROUTES, str(path), "give a file that `concerto route` wrote")
    return routes


def route_metrics(routes: pa.Table) -> dict[str, float]:
    """How many went where, and by which threshold."""
    kinds = routes["route"].to_pylist()
    metrics = {f"router/{kind}": float(kinds.count(str(kind))) for kind in (Route.SFT, Route.GRPO)}
    scores = [score for score in routes["score"].to_pylist() if score is not None]
    if scores:
        metrics |= {
            "router/threshold": routes["threshold"][0].as_py(),
            "router/score_mean": sum(scores) / len(scores),
            "router/score_min": min(scores),
            "router/score_max": max(scores),
        }
    return metrics


@dataclass(frozen=True, slots=True)
class _Known:
    candidates: Candidates
    measured: pa.Table | None
    probe_s: float


async def _measure(
    router: RouterConfig,
    seed: int,
    tasks: TaskMixture,
    demonstrations: pa.Table,
    learner: Prober,
    rollouts: Rollouts,
    progress: Callable[[str, int, int], None],
    schedule: ScheduleSettings,
) -> _Known:
    """What the policy needs to know of the corpus, and no more."""
    sequences = sequences_from_table(demonstrations)
    check(sequences)
    names = tuple(dict.fromkeys(sequence.episode_id for sequence in sequences))
    places = ("",) * len(names)  # one threshold for the whole corpus
    if router.probes:
        started = time.monotonic()
        parts = []
        for first in range(0, demonstrations.num_rows, PROBED_AT_ONCE):
            parts.append(await learner.probe(demonstrations.slice(first, PROBED_AT_ONCE), router.token_budget))
            progress("probe", min(first + PROBED_AT_ONCE, demonstrations.num_rows), demonstrations.num_rows)
        measured = tables.measured(tables.probed(concatenated(parts), sequences))
        return _Known(tables.candidates(measured, places), measured, time.monotonic() - started)
    rates = None
    if router.policy == "pass_rate":
        demonstrated = [demonstrated_task(name) for name in names]
        rates = await _pass_rates(
            demonstrated, router.gate_episodes, seed, schedule.temperature, tasks, rollouts, progress
        )
    return _Known(Candidates(names, places, pass_rates=rates), None, 0.0)


async def _pass_rates(
    tasks: Sequence[tuple[str, str]],
    episodes: int,
    seed: int,
    temperature: float,
    mixture: TaskMixture,
    rollouts: Rollouts,
    progress: Callable[[str, int, int], None],
) -> torch.Tensor:
    """float64 [n], the share of its episodes in which each task is solved. A task that cannot be played counts 0."""
    free, done = asyncio.Semaphore(rollouts.concurrency), 0
    splits = {(panel.environment, task): panel.split for panel in mixture.panels for task in panel.task_ids}

    async def rate(position: int, environment: str, task_id: str) -> float:
        nonlocal done
        async with free:
            seeds = member_seeds(seed, position, episodes)
            group = GroupTask(
                f"gate-{position}", environment, task_id, seeds, temperature, splits[environment, task_id]
            )
            finished = await rollouts.run_group(group)
        done += 1
        progress("pass rates", done, len(tasks))
        return finished.successes / max(finished.members, 1)

    async with asyncio.TaskGroup() as group:
        running = [group.create_task(rate(position, *task)) for position, task in enumerate(tasks)]
    return torch.tensor([task.result() for task in running], dtype=torch.float64)


def _routing(
    routes: pa.Table,
    demonstrations: pa.Table,
    tasks: TaskMixture,
    schedule: ScheduleSettings,
    metrics: dict[str, float],
) -> Routing:
    by_name = {row["trajectory"]: row for row in routes.to_pylist()}
    names = demonstrations["episode_id"].to_pylist()
    if unknown := [name for name in names if name not in by_name]:
        raise UserError(f"the routes lack {unknown[0]}: probe and route the corpus that this run trains on.")
    rows = tuple(row for row, name in enumerate(names) if by_name[name]["ce_weight"] > 0)
    explored = {demonstrated_task(name) for name, route in by_name.items() if route["rl_weight"] > 0}
    panels = (
        replace(panel, task_ids=tuple(task for task in panel.task_ids if (panel.environment, task) in explored))
        for panel in tasks.panels
    )
    left = TaskMixture(tuple(panel for panel in panels if panel.task_ids))
    if schedule.sft_steps and not rows:
        raise UserError("the router sends no trajectory to SFT: set schedule.sft_steps=0, or another router.policy.")
    if (schedule.grpo_steps or schedule.mixed_steps) and not left.panels:
        raise UserError("the router sends no task to GRPO: set schedule.grpo_steps=0, or another router.policy.")
    return Routing(rows, left, metrics)


def _write(path: Path, table: pa.Table) -> None:
    aside = path.with_suffix(".tmp")
    pq.write_table(table, aside, compression="zstd")
    aside.replace(path)
