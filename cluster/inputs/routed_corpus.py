"""Staged routing: before the first stage, the base model measures the corpus, and every trajectory gets its route.

SFT then draws from the trajectories that are imitated, GRPO from the tasks of those that are explored. Both tables,
`measured.parquet` (where a probe ran) and `routes.parquet`, stay in the run directory; a resumed run reads its routes.
What was probed lies in a cache (`probe_cache`), so that no trajectory is probed twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import torch

from cluster.config.sections import ScheduleSettings
from cluster.inputs.probe_cache import ProbeCache, trajectory_key
from cluster.loop.ports import FinishedGroup, GroupTask, Rollouts
from cluster.loop.programme import Programme
from cluster.loop.tasks import TaskMixture, member_seeds
from cluster.loop.together import play_all
from router import tables
from router.arbitration import make_arbiter
from router.probe import ProbeResult, by_trajectory, check, whole_batches
from router.probing import Probing
from router.router_settings import MIXES, RouterSettings
from router.scores import Candidates, score_percentiles
from trajectories.errors import UserError
from trajectories.ids import demonstrated_task
from trajectories.schema import sequences_from_table
from trajectories.store import read_cache, read_parquet, write_parquet
from trajectories.types import Route

MEASURED_FILE, ROUTES_FILE = "measured.parquet", "routes.parquet"
NO_SFT = "set schedule.sft_steps=0, schedule.sft_epochs=0 and schedule.mixed_steps=0"
NO_GRPO = "set schedule.grpo_steps=0, schedule.grpo_epochs=0 and schedule.mixed_steps=0"
PROBED_AT_ONCE = 128
"""Sequences of one request to the learner workers, at least: how often progress shows."""


class Prober(Protocol):
    """What can probe a corpus: the learner workers."""

    async def probe(self, sequences: pa.Table, probing: Probing) -> ProbeResult: ...

    async def fingerprint(self, probing: Probing) -> str: ...


@dataclass(frozen=True, slots=True)
class Routing:
    """What became of a run's programme.

    Attributes:
        programme: with the demonstrations that SFT imitates, and the tasks on which GRPO explores.
        metrics: metrics of the routing itself, for the record of step 0; empty where nothing was routed now.
    """

    programme: Programme
    metrics: dict[str, float]


def check_router(router: RouterSettings, schedule: ScheduleSettings) -> None:
    """Raises UserError when policy, mode and stages do not go together."""
    if not router.active:
        return
    if router.routes is not None:
        if router.online:
            raise UserError("router.routes holds routes of stages: leave it out, or set router.mode=staged.")
        read_routes(Path(router.routes))
    if router.online and not schedule.mixed_steps:
        raise UserError("router.mode=online routes the mixed stage: set schedule.mixed_steps.")
    if not router.online and router.policy in MIXES:
        raise UserError(
            f"router.policy={router.policy} mixes both objectives in every step: set router.mode=online and "
            "schedule.mixed_steps."
        )
    if not router.online and schedule.demonstrates and router.policy == "all_grpo":
        raise UserError(f"router.policy=all_grpo sends nothing to SFT: {NO_SFT}.")
    if not router.online and schedule.plays and router.policy == "all_sft":
        raise UserError(f"router.policy=all_sft sends nothing to GRPO: {NO_GRPO}.")


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of the corpus before it is routed."""

    candidates: Candidates
    measured: pa.Table | None
    probe_s: float


@dataclass(frozen=True, slots=True)
class CorpusRouter:
    """Routes the corpus of a run.

    Attributes:
        programme: what the run would do with all of the corpus; its seed is that of the random routes and of the
            episodes that `pass_rate` plays.
        progress: is told what is going on, how much of it is done, and how much there is.
        say: is told a line.
    """

    run_dir: Path
    router: RouterSettings
    programme: Programme
    learner: Prober
    rollouts: Rollouts
    progress: Callable[[str, int, int], None]
    say: Callable[[str], None] = lambda line: None

    async def route(self, demonstrations: pa.Table) -> Routing:
        """Read the routes of the run, or decide them by the weights that the learner holds now: the base model's, also
        where a run goes on.

        Raises:
            UserError: the corpus cannot be measured or split; no route is written.
            UserError: a stage is left without data.
        """
        path, metrics = self.run_dir / ROUTES_FILE, {}
        if (kept := read_cache(path, self.say)) is not None:
            routes = kept
        elif self.router.routes is not None:
            routes = read_routes(Path(self.router.routes))
            write_parquet(path, routes)
        else:
            started = time.monotonic()
            known = await self._measure(demonstrations)
            decisions = make_arbiter(self.router, self.programme.seed).decide(known.candidates)
            routes = tables.routes(known.candidates.ids, decisions)
            if known.measured is not None:
                write_parquet(self.run_dir / MEASURED_FILE, known.measured)
            write_parquet(path, routes)
            metrics = route_metrics(routes, known.candidates.environments) | {
                "probe_s": known.probe_s,
                "routing_s": time.monotonic() - started,
            }
        return _routing(routes, demonstrations, self.programme, metrics)

    async def _measure(self, demonstrations: pa.Table) -> _Known:
        """What the policy needs to know of the corpus, and no more."""
        sequences = sequences_from_table(demonstrations)
        check(sequences)
        names = tuple(dict.fromkeys(sequence.episode_id for sequence in sequences))
        places = tuple(demonstrated_task(name)[0] for name in names)
        if self.router.probes:
            started = time.monotonic()
            measured = await self._probe(demonstrations)
            return _Known(tables.candidates(measured, places), measured, time.monotonic() - started)
        rates = None
        if self.router.policy == "pass_rate":
            rates = await self._pass_rates([demonstrated_task(name) for name in names])
        return _Known(Candidates(names, places, pass_rates=rates), None, 0.0)

    async def _probe(self, demonstrations: pa.Table) -> pa.Table:
        """`tables.MEASURED` of all trajectories, of which only those are probed that nobody has probed before."""
        probing = self.router.probing(alone=True)  # the engines have nothing to do yet
        folder = Path(self.router.cache) if self.router.cache else self.run_dir
        cache = ProbeCache(folder, await self.learner.fingerprint(probing), self.say)
        sequences, names = sequences_from_table(demonstrations), demonstrations["episode_id"].to_pylist()
        owned = by_trajectory(names)
        keys = {name: trajectory_key(sequences[row] for row in rows) for name, rows in owned.items()}
        new = [row for row, name in enumerate(names) if keys[name] not in cache]
        done = len(names) - len(new)
        for batch in whole_batches([names[row] for row in new], PROBED_AT_ONCE):
            rows = [new[at] for at in batch]
            result = await self.learner.probe(demonstrations.take(rows), probing)
            measured = tables.measured(result, [sequences[row] for row in rows])
            cache.add([keys[name] for name in result.trajectories], measured)
            done += len(rows)
            self.progress("probe", done, len(names))
        return cache.table(list(keys), list(keys.values()))

    async def _pass_rates(self, tasks: Sequence[tuple[str, str]]) -> torch.Tensor:
        """float64 [n], the share of its episodes in which each task is solved. One that cannot be played counts 0."""
        splits = {
            (panel.environment, task): panel.split for panel in self.programme.tasks.panels for task in panel.task_ids
        }
        if unknown := [task for task in tasks if task not in splits]:
            raise UserError(
                f"router.policy=pass_rate plays the task of every demonstration, but {'/'.join(unknown[0])} is in no "
                "panel of this run: name its panel in tasks, or leave it out of schedule.demonstrations_file."
            )

        done, temperature = 0, self.programme.schedule.temperature.at(0)

        def rate(task: GroupTask, finished: FinishedGroup) -> float:
            nonlocal done
            done += 1
            self.progress("pass rates", done, len(tasks))
            return finished.successes / max(finished.members, 1)

        groups = [
            GroupTask(
                f"pass-rate-{position}",
                *task,
                member_seeds(self.programme.seed, position, self.router.gate_episodes),
                temperature,
                splits[task],
            )
            for position, task in enumerate(tasks)
        ]
        return torch.tensor(await play_all(self.rollouts, groups, rate), dtype=torch.float64)


def read_routes(path: Path) -> pa.Table:
    """The file that `concerto route` wrote. Raises UserError when there is none."""
    return read_parquet(path, tables.ROUTES, "set router.routes to a file that `concerto route` wrote.")


def route_metrics(routes: pa.Table, environments: Sequence[str]) -> dict[str, float]:
    """How many went where, and by which threshold; where there are several environments, also of each.

    Args:
        environments: of each row.
    """
    metrics, rows = _route_metrics(routes.to_pylist()), zip(environments, routes.to_pylist(), strict=True)
    by_environment: dict[str, list[Any]] = {name: [] for name in environments}
    for name, row in rows:
        by_environment[name].append(row)
    if len(by_environment) > 1:
        for name, mine in by_environment.items():
            metrics |= {f"{key}/{name}": value for key, value in _route_metrics(mine).items()}
    return metrics


def _route_metrics(rows: Sequence[Any]) -> dict[str, float]:
    kinds = [row["route"] for row in rows]
    metrics = {f"router/{kind}": float(kinds.count(str(kind))) for kind in (Route.SFT, Route.GRPO)}
    scores = [row["score"] for row in rows if row["score"] is not None]
    thresholds = {row["threshold"] for row in rows if row["score"] is not None}
    if scores:
        metrics |= {
            "router/score_mean": sum(scores) / len(scores),
            "router/score_min": min(scores),
            "router/score_max": max(scores),
        } | score_percentiles(scores)
    return metrics | ({"router/threshold": thresholds.pop()} if len(thresholds) == 1 else {})


def _routing(routes: pa.Table, demonstrations: pa.Table, programme: Programme, metrics: dict[str, float]) -> Routing:
    by_name = {row["trajectory"]: row for row in routes.to_pylist()}
    names = demonstrations["episode_id"].to_pylist()
    if unknown := [name for name in names if name not in by_name]:
        raise UserError(f"the routes lack {unknown[0]}: probe and route the corpus that this run trains on.")
    rows = tuple(row for row, name in enumerate(names) if by_name[name]["ce_weight"] > 0)
    explored = {demonstrated_task(name) for name, route in by_name.items() if route["rl_weight"] > 0}
    panels = (
        replace(panel, task_ids=tuple(task for task in panel.task_ids if (panel.environment, task) in explored))
        for panel in programme.tasks.panels
    )
    left = TaskMixture(tuple(panel for panel in panels if panel.task_ids))
    if programme.schedule.demonstrates and not rows:
        raise UserError(f"the router sends no trajectory to SFT: {NO_SFT}, or another router.policy.")
    if programme.schedule.plays and not left.panels:
        raise UserError(f"the router sends no task to GRPO: {NO_GRPO}, or another router.policy.")
    return Routing(replace(programme, demonstrations=rows, tasks=left), metrics)
