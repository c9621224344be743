"""Who rates a run's answers beside its environments: the preference model and the judge, started and taken down."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from actors import runtime
from actors.raters import (
    PreferencePool,
    RemoteJudge,
    preference_in_words,
    start_judge,
    start_preference,
)
from cluster.config.run import RunSettings
from cluster.inputs.models import resolve_model
from cluster.inputs.run_plan import Plan
from cluster.loop.ports import Rollouts
from cluster.reporting.judged import JudgedRollouts
from cluster.runtime.session import preference_demands
from envs.questions.library import QuestionLibrary
from learners.rewards.answers import AnswerReader, Rater
from trajectories.chat import ChatTokenizer
from trajectories.errors import RunError


@dataclass(frozen=True, slots=True)
class Raters:
    """Those of a run, by the channel that each gives."""

    preference: PreferencePool | None = None
    judge: RemoteJudge | None = None

    @property
    def channels(self) -> Mapping[str, Rater]:
        both: dict[str, Rater | None] = {"preference": self.preference, "judge": self.judge}
        return {name: rater for name, rater in both.items() if rater is not None}

    async def ready(self, timeout_s: float) -> None:
        """Wait until the preference model is loaded. Raises ConcertoError where it cannot be, or not in time."""
        if self.preference is None:
            return
        with preference_in_words():
            loading = asyncio.gather(*(actor.load.remote() for actor in self.preference.replicas))
            try:
                await asyncio.wait_for(loading, timeout_s)
            except TimeoutError:
                raise RunError(
                    f"the preference model was not loaded within {timeout_s:g} s: see with `concerto plan` that its "
                    "replicas have room, or raise placement.start_timeout_s"
                ) from None


@asynccontextmanager
async def open_raters(plan: Plan) -> AsyncIterator[Raters]:
    """The raters of a run's reward channels, still loading; gone afterwards."""
    config, name = plan.config, f"concerto:{plan.name}"
    handles: list[Any] = []
    try:
        replicas = []
        for demand in preference_demands(config):
            options = {"name": f"{name}:{demand.name}", "num_cpus": demand.cpus, "num_gpus": demand.gpus}
            model = resolve_model(config.reward.preference_model or "")
            replicas.append(start_preference(model, demand.gpus, options))
            handles.append(replicas[-1])
        pool = PreferencePool(tuple(replicas), config.reward.preference_batch) if replicas else None
        judge = None
        if config.reward.judge.active:
            reader = answer_reader(config, plan.model)
            judge = start_judge(config.reward.judge, "reward.judge", reader, {"name": f"{name}:judge"})
            handles.append(judge.handle)
        yield Raters(pool, judge)
    finally:
        for handle in handles:
            runtime.kill(handle)


@asynccontextmanager
async def open_evaluator(config: RunSettings, model: str, run: str) -> AsyncIterator[RemoteJudge | None]:
    """The judge of evaluations; None where there is none."""
    settings = config.evaluation.judge
    if not settings.active:
        yield None
        return
    options = {"name": f"concerto:{run}:evaluator"}
    judge = start_judge(settings, "evaluation.judge", answer_reader(config, model), options)
    try:
        yield judge
    finally:
        runtime.kill(judge.handle)


def judged_rollouts(
    rollouts: Rollouts, judge: RemoteJudge | None, look: Callable[[Mapping[str, float]], Awaitable[None]]
) -> Rollouts:
    """Rollouts of an evaluation, graded where it has a judge; `look` as in `JudgedRollouts`."""
    return JudgedRollouts(rollouts, judge, look) if judge else rollouts


def answer_reader(config: RunSettings, model: str) -> Callable[[], AnswerReader]:
    """Makes, in another process, what reads the answers of the run's groups."""
    return partial(_reader, model, config.data.get("questions"))


def _reader(model: str, questions: str | None) -> AnswerReader:
    return AnswerReader(ChatTokenizer.from_pretrained(model), QuestionLibrary.open(questions))


@dataclass(slots=True)
class JudgeWatch:
    """Tells once that answers went without a vote, and why; later ones are only counted."""

    judge: RemoteJudge | None
    say: Callable[[str], None]
    _told: bool = field(default=False)

    async def look(self, metrics: Mapping[str, float]) -> None:
        """`metrics` of a step, with `judge/unanswered`, or of a group in an evaluation, with `judge_unanswered`."""
        missing = metrics.get("judge/unanswered", 0.0) or metrics.get("judge_unanswered", 0.0)
        if self.judge is None or self._told or not missing:
            return
        self._told = True
        self.say(
            "judge: answers without a vote get the mean of their group, 0.5 where it has none; from now on they are "
            f"only counted (judge/unanswered): {await self.judge.trouble()}"
        )
