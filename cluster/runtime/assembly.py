"""Wires the control loop to its real parts: learner workers, engines, recorder, router and Conductor."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pyarrow as pa
from transformers import AutoConfig

from actors import runtime
from actors.conductor import RemoteConductor, start_conductor
from actors.recorder import start_recorder
from actors.router import RouterActor
from cluster.inputs.demonstrations import FILE, ExpertPlay, load_demonstrations
from cluster.inputs.reward_channels import open_channels
from cluster.inputs.routed_corpus import CorpusRouter
from cluster.inputs.run_plan import Plan
from cluster.loop.coordinator import Coordinator
from cluster.loop.ports import Parts
from cluster.loop.programme import Programme
from cluster.reporting.best import BestKeeper
from cluster.reporting.progress import RunObserver
from cluster.runtime.experience import ExperiencedRollouts, open_experience
from cluster.runtime.fleet import RolloutFleet
from cluster.runtime.inline import InlinePool
from cluster.runtime.learner import RayLearner
from cluster.runtime.publisher import ParitySequences, Publisher
from cluster.runtime.raters import JudgeWatch, Raters, judged_rollouts, open_evaluator, open_raters
from cluster.runtime.recorder import RayRecorder
from cluster.runtime.run_evaluation import RunEvaluation
from cluster.runtime.session import beside_rollouts, open_fleet
from cluster.runtime.steps import (
    ConductedTraining,
    NothingToRead,
    OnlineRouting,
    PlainRouting,
    PlainTraining,
    PolicyReader,
)
from cluster.runtime.weights import Publication
from experience.advice import Book
from learners.policy.parity import ParityWatch
from learners.rewards.open_channels import READ
from learners.rewards.reward_batch import ConstantWatch
from learners.rewards.scalarisers import ADVANTAGES
from learners.workers.pool import LearnerPool, Pool
from router.arbitration import make_arbiter
from router.online import OnlineRouter
from trajectories.store import read_cache, write_parquet

PARITY_SEQUENCES = 2


@dataclass(frozen=True, slots=True)
class Assembly:
    """A loop that can run, and the learner that it trains."""

    coordinator: Coordinator
    learner: RayLearner


@asynccontextmanager
async def assembled(plan: Plan, observer: RunObserver) -> AsyncIterator[Assembly]:
    """Every actor of the run, started, and the loop around them, at the plan's checkpoint; all gone afterwards."""
    config = plan.config
    demonstrations = _demonstrations(plan, observer)
    observer.say("starting engines and learner workers")
    async with (
        open_raters(plan) as raters,
        _open_learner(plan, demonstrations, raters, JudgeWatch(raters.judge, observer.say)) as learner,
        open_fleet(config, plan.model, plan.environments, plan.name) as fleet,
        _open_recorder(plan) as recorder,
        open_experience(plan, fleet, observer.say) as experience,
        open_evaluator(config, plan.model, plan.name) as evaluator,
    ):
        await learner.ready()
        await raters.ready(config.placement.start_timeout_s)
        parity_sequences = ParitySequences.put(demonstrations.slice(0, PARITY_SEQUENCES))
        watch = ParityWatch(config.schedule.parity_tolerance, config.policy.dtype, observer.say)
        publisher = Publisher(learner, fleet, parity_sequences, watch)
        judged = partial(judged_rollouts, judge=evaluator, look=JudgeWatch(evaluator, observer.say).look)
        evaluation = RunEvaluation(plan.run_dir, config, plan.eval_panels, fleet, observer, _book(experience), judged)
        best = BestKeeper(plan.run_dir, plan.eval_panels, learner.save_pretrained, observer.say)
        programme = await _programme(plan, learner, fleet, observer, demonstrations)
        parts = Parts(fleet, learner, recorder, publisher.publish, evaluation.play, best.keep, observer)
        if experience:
            parts = replace(parts, rollouts=experience, gauges=experience.gauges, memory=lambda: experience.snapshot)
        coordinator = Coordinator(plan.run_dir, programme, parts, plan.manifest)
        if plan.checkpoint is not None:
            await coordinator.restore(plan.checkpoint)
            observer.say(f"resuming after step {coordinator.manifest.step}")
        yield Assembly(coordinator, learner)


def _book(experience: ExperiencedRollouts | None) -> Callable[[], Book | None]:
    return lambda: experience.book if experience else None


async def _programme(
    plan: Plan, learner: RayLearner, fleet: RolloutFleet, observer: RunObserver, demonstrations: pa.Table
) -> Programme:
    """The run's programme: everything, unless the corpus is routed before the first stage."""
    config, router, rows = plan.config, plan.config.router, tuple(range(demonstrations.num_rows))
    compared = config.reward.compared(plan.channels)
    whole = Programme(config.seed, plan.tasks, rows, compared, config.schedule, config.evaluation, config.checkpoint)
    if not router.active or router.online:
        return whole
    corpus_router = CorpusRouter(plan.run_dir, router, whole, learner, fleet, observer.activity, observer.say)
    routing = await corpus_router.route(demonstrations)
    if routing.metrics:
        observer.record("routing", routing.metrics)
    routed = routing.programme
    observer.say(f"{router.policy}: {len(routed.demonstrations)} sequences to SFT, {routed.tasks.count} tasks to GRPO")
    return routed


def _demonstrations(plan: Plan, observer: RunObserver) -> pa.Table:
    config = plan.config
    if config.schedule.demonstrations_file and read_cache(plan.run_dir / FILE, observer.say) is None:
        write_parquet(plan.run_dir / FILE, plan.recorded())
    wanted = config.router.active or config.schedule.demonstrates
    count, kind = config.schedule.demonstrations if wanted else PARITY_SEQUENCES, config.schedule.demonstrations_kind
    play = ExpertPlay(plan.tasks, config.opening, count, config.rollout.max_turns, config.seed, kind)
    progress = partial(observer.activity, "demonstrations")
    return load_demonstrations(plan.run_dir, play, plan.transcriber, progress, observer.say)


@asynccontextmanager
async def _open_recorder(plan: Plan) -> AsyncIterator[RayRecorder]:
    """The recorder, beside the first rollout actor, since most of what it writes was made there or has to travel."""
    run = plan.name
    options = {"name": f"concerto:{run}:recorder", **beside_rollouts(plan.config.placement, run)}
    actor = start_recorder(plan.run_dir / "trajectories", options)
    try:
        yield RayRecorder(actor)
    finally:
        runtime.kill(actor)


@asynccontextmanager
async def _open_learner(
    plan: Plan, demonstrations: pa.Table, raters: Raters, watch: JudgeWatch
) -> AsyncIterator[RayLearner]:
    """The learner, its workers still starting, so that engines can start beside them; stopped afterwards."""
    config, pool, name = plan.config, _pool(plan), f"concerto:{plan.name}"
    options = {"name": f"{name}:router", "num_cpus": 0, "max_restarts": -1, "max_task_retries": 2}
    unnamed = open_channels(config, plan.channels, plan.model, raters.channels)
    router = runtime.start(RouterActor, options, config.grpo, config.reward, plan.channels, config.seed, unnamed)
    conductor = _conductor(plan, f"{name}:conductor") if config.reward.scalariser == "conductor" else None
    routing, training = _routing(plan, pool, router, demonstrations), _training(plan, pool, conductor)
    engine = config.fitted_rollout.engine
    publication = Publication(config.policy.lora is not None, engine.control_timeout_s, engine.tensor_parallel)
    learner = RayLearner(pool, routing, training, publication, watch.look)
    try:
        learner.start(config.placement.start_timeout_s)
        yield learner
    finally:
        try:
            await learner.stop()
        finally:
            runtime.kill(router)
            if conductor is not None:
                conductor.stop()


def _pool(plan: Plan) -> Pool:
    config, placement = plan.config.learner_settings(plan.model), plan.config.placement
    if placement.inline:
        return InlinePool(config)
    resources = {"CPU": placement.learner_cpus, "GPU": placement.learner_gpus}
    return LearnerPool(
        config,
        run_name=plan.name,
        storage=plan.run_dir / "ray_train",
        num_workers=placement.learner_workers,
        resources_per_worker={name: share for name, share in resources.items() if share},
    )


def _conductor(plan: Plan, name: str) -> RemoteConductor:
    hidden = AutoConfig.from_pretrained(plan.model).hidden_size
    options = {"name": name, "num_cpus": 0}
    return RemoteConductor(start_conductor(plan.channels, hidden, plan.config.reward.conductor, options))


def _routing(plan: Plan, pool: Pool, router: Any, demonstrations: pa.Table) -> PlainRouting | OnlineRouting:
    settings = plan.config.router
    reads = plan.config.grpo.folds_kl or not READ.isdisjoint(plan.channels)
    reader = PolicyReader(pool, router) if reads else NothingToRead()
    plain = PlainRouting(router, reader, demonstrations)
    if not settings.online:
        return plain
    memory = OnlineRouter(make_arbiter(settings, plan.config.seed))
    probing = settings.probing(alone=False) if settings.probes else None
    return OnlineRouting(plain, pool, memory, probing, runtime.put(demonstrations))


def _training(plan: Plan, pool: Pool, conductor: RemoteConductor | None) -> PlainTraining | ConductedTraining:
    config, reward = plan.config, plan.config.reward
    watch = ConstantWatch(reward.constant_limit)
    if conductor is not None:
        advantage = ADVANTAGES[config.grpo.advantage]
        return ConductedTraining(pool, conductor, reward.conductor, advantage, config.seed, watch)
    return PlainTraining(pool, watch if reward.scalariser != "single" else None)
