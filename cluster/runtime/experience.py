"""Experience in a run: groups are told what is known, and what became of them goes to the experience actor."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from actors import runtime
from actors.experience import Told, start_experience
from actors.policy_chat import ServedPolicy
from cluster.inputs.experience_plan import memory_path, planned_types
from cluster.inputs.run_plan import Plan
from cluster.loop.ports import FinishedGroup, GroupTask, Rollouts
from cluster.runtime.session import beside_rollouts, rollout_names
from experience.advice import Advice, Book, half_of
from experience.experience_settings import ExperienceSettings
from experience.records import digest
from trajectories.errors import UserError, last_line

TIMEOUT_S = 120.0
"""Seconds that the actor may take to answer; it loads a model before its first answer."""
BACKLOG = 64
"""Finished groups that may wait for the actor; of more, nothing is learned."""
CLOSE_S = 20.0


class ExperiencedRollouts:
    """Rollouts whose prompts carry experience, and whose groups it is judged by and made of.

    Nothing here holds a group up. When the actor dies or does not answer, the run goes on without experience, which is
    told once; a round of learning that fails is told once as well, and later ones are counted.

    Args:
        run: names the run for the memory: its groups have the same names when they are played again.
    """

    def __init__(
        self, rollouts: Rollouts, actor: Any, settings: ExperienceSettings, run: str, say: Callable[[str], None]
    ) -> None:
        self._rollouts, self._actor, self._settings, self._run, self._say = rollouts, actor, settings, run, say
        self._told: Told | None = None
        self._waiting: set[asyncio.Task[None]] = set()
        self._off = self._troubled = False
        self._unheard = 0

    async def start(self) -> None:
        """Read the memory. Raises UserError where it cannot be used; a dead actor is no error."""
        await self._hear(self._actor.told.remote())

    @property
    def snapshot(self) -> int | None:
        """Of the memory, as it was told last."""
        return self._told.book.snapshot if self._told else None

    @property
    def book(self) -> Book | None:
        """What prompts are made of now; None where the run goes on without experience."""
        return None if self._off or self._told is None else self._told.book

    def room(self, members: int) -> int:
        return self._rollouts.room(members)

    async def run_group(self, task: GroupTask) -> FinishedGroup:
        advice = self._advice(task)
        finished = await self._rollouts.run_group(replace(task, advice=advice))
        if advice is not None:
            self._pass_on(task, advice, finished)
        return finished

    def gauges(self) -> dict[str, float]:
        """Metrics of a step, as `experience/…`: what the actor told last, whether it is off, and groups unheard."""
        told = self._told.gauges if self._told else {}
        own = {"off": float(self._off), "unheard": float(self._unheard), "waiting": float(len(self._waiting))}
        return {f"experience/{name}": value for name, value in (told | own).items()}

    async def close(self) -> None:
        """Wait, a bounded time, until the actor has heard of every group."""
        if self._waiting:
            await asyncio.wait(self._waiting, timeout=CLOSE_S)
        for task in self._waiting:
            task.cancel()
        await asyncio.gather(*self._waiting, return_exceptions=True)

    def _advice(self, task: GroupTask) -> Advice | None:
        """What a group is told: half of what is known where a part of it plays without, else all."""
        if (book := self.book) is None:
            return None
        advice = book.advice(task.environment, task.task_id, self._settings.max_tokens)
        without = self._settings.without(len(task.seeds))
        if not without or not advice.experience:
            return advice
        return replace(half_of(advice, f"{self._run}/{task.group_id}"), without=without)

    def _pass_on(self, task: GroupTask, advice: Advice, finished: FinishedGroup) -> None:
        if self._off or len(self._waiting) >= BACKLOG:
            self._unheard += 1
            return
        sequences = finished.data.sequences if self._settings.learns else None
        name = f"{self._run}/{task.group_id}"
        hearing = self._hear(self._actor.observe.remote(name, advice, finished.data.episodes, sequences))
        self._waiting.add(asyncio.create_task(hearing, name=f"experience of {name}"))
        self._waiting = {one for one in self._waiting if not one.done()}

    async def _hear(self, answer: Any) -> None:
        try:
            self._told = told = await asyncio.wait_for(answer, TIMEOUT_S)
        except Exception as error:  # whatever it is, training goes on
            cause = getattr(error, "cause", None)
            if self._told is None and isinstance(cause, UserError):
                raise cause from None
            reason = f"no answer within {TIMEOUT_S:g} s" if isinstance(error, TimeoutError) else last_line(error)
            self._switch_off(reason)
            return
        if told.trouble and not self._troubled:
            self._troubled = True
            self._say(f"experience: a round of learning failed, later ones are only counted: {told.trouble}")

    def _switch_off(self, reason: str) -> None:
        self._unheard += 1
        if not self._off:
            self._off = True
            self._say(f"experience: the run goes on without it: {reason}")


@asynccontextmanager
async def open_experience(
    plan: Plan, rollouts: Rollouts, say: Callable[[str], None]
) -> AsyncIterator[ExperiencedRollouts | None]:
    """The rollouts with experience, their actor beside the first rollout actor; None where the run has none."""
    settings, run = plan.config.experience, plan.name
    if not settings.enabled:
        yield None
        return
    options = {"name": f"concerto:{run}:experience", **beside_rollouts(plan.config.placement, run)}
    path = memory_path(settings, plan.run_dir)
    types = planned_types((*plan.tasks.panels, *plan.eval_panels))
    snapshot = plan.manifest.memory if settings.memory is None else None  # what has a name others may have changed
    policy = ServedPolicy(plan.model, rollout_names(plan.config.placement, run))
    actor = start_experience(path, types, settings, policy, snapshot, options)
    told = ExperiencedRollouts(rollouts, actor, settings, run_name(plan.run_dir), say)
    try:
        await told.start()
        yield told
    finally:
        await told.close()
        runtime.kill(actor)


def run_name(run_dir: Path) -> str:
    """Names a run among all that use a memory, the same when it is resumed."""
    return f"{run_dir.name}-{digest(str(run_dir.resolve()))}"
