"""`concerto train`: checks everything that can be checked first, then wires the control loop to its real parts."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import yaml
from rich.console import Console
from transformers import AutoConfig

from actors.conductor import ConductorError, RemoteConductor, start_conductor
from actors.router import RouterActor
from cluster.config.loading import check_config
from cluster.config.run import RunConfig
from cluster.errors import UserError, last_line
from cluster.inputs.demonstrations import FILE, load_demonstrations, write_demonstrations
from cluster.inputs.models import load_tokenizer, resolve_model
from cluster.inputs.recorded import read_recorded
from cluster.inputs.reward_channels import open_channels, reward_channels
from cluster.inputs.routed_corpus import CorpusRouter, Routing, check_router
from cluster.loop.checkpoint import Manifest, has_checkpoint, latest_checkpoint, load_manifest
from cluster.loop.coordinator import Coordinator
from cluster.loop.tasks import TaskMixture
from cluster.reporting.curve import write_learning_curve
from cluster.reporting.metrics import MetricsWriter
from cluster.reporting.progress import RunObserver
from cluster.reporting.run_evaluation import RunEvaluation
from cluster.runtime.fleet import RolloutFleet, WeightsLost
from cluster.runtime.learner import RayLearner
from cluster.runtime.publisher import Publisher
from cluster.runtime.session import check_resources, open_fleet, ray_cluster
from cluster.runtime.steps import (
    ConductedTraining,
    NothingToRead,
    OnlineRouting,
    PlainRouting,
    PlainTraining,
    PolicyReader,
)
from envs import Panel, heldout_panel, load_panel, training_panel
from learners.learner_config import LearnerConfig
from learners.rewards.open_channels import READ
from learners.rewards.reward_batch import ConstantWatch
from learners.rewards.scalarisers import ADVANTAGES
from learners.workers.pool import LearnerError, LearnerPool
from router.arbitration import make_arbiter
from router.online import OnlineRouter

PARITY_SEQUENCES = 2
MAX_DEATHS = 3
"""Deaths of learner workers at one step after which the run ends: what is at fault would only happen again."""
FREE_TO_CHANGE = {
    "placement": True,
    "evaluation": True,
    "checkpoint": True,
    "data": True,
    "reward": {"constant_limit": True},
}
"""What a resumed run may change: none of it decides what is trained, and the panels' hashes tell whether the data
elsewhere are the same."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A run that has passed every check which needs no cluster.

    Attributes:
        channels: reward channels that advantages are made of.
    """

    config: RunConfig
    run_dir: Path
    model: str
    tasks: TaskMixture
    channels: tuple[str, ...]
    eval_panels: tuple[Panel, ...]
    checkpoint: Path | None
    manifest: Manifest

    @property
    def environments(self) -> tuple[str, ...]:
        """All that is played."""
        return tuple(sorted({panel.environment for panel in (*self.tasks.panels, *self.eval_panels)}))


def plan_run(config: RunConfig, run_dir: Path, resume: bool) -> Plan:
    """Check model, data and run directory. Raises UserError or DataError."""
    if not config.schedule.stages:
        raise UserError(
            "the schedule has no steps: set schedule.sft_steps, schedule.mixed_steps or schedule.grpo_steps."
        )
    check_router(config.router, config.schedule)
    model = resolve_model(config.policy.model)
    load_tokenizer(model)
    tasks = TaskMixture(tuple(training_panel(name, _data(config, name)) for name in config.tasks))
    panels = {panel.name: panel.hash for panel in tasks.panels}
    if len(panels) < len(tasks.panels):
        raise UserError(f"tasks={','.join(config.tasks)} names a panel twice: shares are equal, so name each once.")
    checkpoint, manifest = None, Manifest(panels=panels)
    if resume:
        _check_same_run(config, run_dir)
    if resume and has_checkpoint(run_dir):
        checkpoint = latest_checkpoint(run_dir)
        manifest = load_manifest(checkpoint)
        for panel in tasks.panels:
            if manifest.panels.get(panel.name) != panel.hash:
                raise UserError(
                    f"{panel.name} no longer holds the tasks that {run_dir} was trained on: name the same data with "
                    f"--set data.{panel.environment}=PATH."
                )
    if run_dir.exists() and not run_dir.is_dir():
        raise UserError(f"{run_dir} is a file: name a directory with --out.")
    if not resume and (run_dir / "config.yaml").exists():
        raise UserError(f"{run_dir} already holds a run: add --resume to go on with it, or name another --out.")
    channels = reward_channels(config, tasks)
    plan = Plan(config, run_dir, model, tasks, channels, _eval_panels(config, tasks), checkpoint, manifest)
    if config.schedule.demonstrations_file and not resume:
        _recorded(plan)
    return plan


def _eval_panels(config: RunConfig, tasks: TaskMixture) -> tuple[Panel, ...]:
    if config.evaluation.panels is not None:
        return tuple(load_panel(name, _data(config, name)) for name in config.evaluation.panels)
    environments = dict.fromkeys(panel.environment for panel in tasks.panels)
    return tuple(heldout_panel(name, _data(config, name)) for name in environments)


def _data(config: RunConfig, name: str) -> str | None:
    """The data of the environment of a panel."""
    return config.data.get(name.partition("/")[0])


def run_training(plan: Plan, console: Console) -> None:
    """Train to the end of the schedule; when learner workers die, go on from the last checkpoint.

    Raises:
        Interrupted: after a stop by SIGINT or SIGTERM, checkpoint written.
        LearnerError, WeightsLost, ConductorError: workers died `MAX_DEATHS` times without a new checkpoint in between.
    """
    with ray_cluster(plan.config.placement):
        say = partial(console.print, markup=False, highlight=False)
        asyncio.run(check_resources(plan.config.placement, with_learner=True, say=say))
        plan.run_dir.mkdir(parents=True, exist_ok=True)
        (plan.run_dir / "config.yaml").write_text(yaml.safe_dump(plan.config.model_dump(mode="json"), sort_keys=False))
        deaths = 0
        while True:
            try:
                return asyncio.run(_train(plan, console))
            except (LearnerError, WeightsLost, ConductorError) as error:
                before, plan = plan, plan_run(plan.config, plan.run_dir, resume=True)
                deaths = 1 if plan.manifest.step > before.manifest.step else deaths + 1
                if deaths == MAX_DEATHS:
                    raise
                say(f"{last_line(error)}\nGoing on from step {plan.manifest.step}.")


async def _train(plan: Plan, console: Console) -> None:
    config = plan.config
    writer = MetricsWriter(plan.run_dir, from_step=plan.manifest.step + 1, ray_metrics=True)
    with RunObserver(console, writer) as observer:
        demonstrations = _demonstrations(plan, observer)
        observer.say("starting engines and learner workers")
        async with (
            _open_learner(plan, demonstrations) as learner,
            open_fleet(config, plan.model, plan.environments, plan.run_dir.name) as fleet,
        ):
            await learner.ready()
            parity_sequences = demonstrations.slice(0, PARITY_SEQUENCES)
            publisher = Publisher(learner, fleet, parity_sequences, config.schedule.parity_tolerance)
            evaluation = RunEvaluation(plan.run_dir, config, plan.eval_panels, fleet, observer)
            routing = await _routing(plan, learner, fleet, observer, demonstrations)
            coordinator = Coordinator(
                run_dir=plan.run_dir,
                seed=config.seed,
                schedule=config.schedule,
                evaluation=config.evaluation,
                checkpoint=config.checkpoint,
                tasks=routing.tasks,
                demonstrations=routing.rows,
                rollouts=fleet,
                learner=learner,
                publish=publisher.publish,
                evaluate=evaluation.play,
                observer=observer,
                manifest=plan.manifest,
            )
            if plan.checkpoint is not None:
                await coordinator.restore(plan.checkpoint)
                observer.say(f"resuming after step {coordinator.manifest.step}")
            with _stop_on_signal(coordinator, observer):
                await coordinator.run()
            await learner.save_pretrained(plan.run_dir / "model")
    write_learning_curve(plan.run_dir)


async def _routing(
    plan: Plan, learner: RayLearner, fleet: RolloutFleet, observer: RunObserver, demonstrations: pa.Table
) -> Routing:
    """Everything, unless the corpus is routed before the first stage."""
    router = plan.config.router
    if not router.active or router.online:
        return Routing(tuple(range(demonstrations.num_rows)), plan.tasks, {})
    config = plan.config
    parts = (plan.run_dir, router, config.schedule, config.seed, plan.tasks, learner, fleet, observer.activity)
    routing = await CorpusRouter(*parts).route(demonstrations)
    if routing.metrics:
        observer.record("routing", routing.metrics)
    observer.say(f"{router.policy}: {len(routing.rows)} sequences to SFT, {routing.tasks.count} tasks to GRPO")
    return routing


def _recorded(plan: Plan) -> pa.Table:
    """Recorded demonstrations. Raises UserError when they do not fit this run."""
    file, rollout = plan.config.schedule.demonstrations_file, plan.config.rollout
    assert file is not None
    tokenizer, longest = load_tokenizer(plan.model), rollout.engine.max_model_len
    return read_recorded(Path(file), tokenizer, rollout.prompt, longest, plan.eval_panels)


def _demonstrations(plan: Plan, observer: RunObserver) -> pa.Table:
    config = plan.config
    if config.schedule.demonstrations_file and not (plan.run_dir / FILE).exists():
        write_demonstrations(plan.run_dir / FILE, _recorded(plan))
    wanted = config.router.active or config.schedule.demonstrates
    return load_demonstrations(
        plan.run_dir,
        plan.tasks,
        config.data,
        config.schedule.demonstrations if wanted else PARITY_SEQUENCES,
        load_tokenizer(plan.model),
        config.rollout.prompt,
        config.rollout.engine.max_model_len,
        config.rollout.max_turns,
        config.seed,
        lambda done, total: observer.activity("demonstrations", done, total),
    )


@asynccontextmanager
async def _open_learner(plan: Plan, demonstrations: pa.Table) -> AsyncIterator[RayLearner]:
    """Workers that are starting, so that engines can start beside them; stopped afterwards."""
    config = plan.config
    resources = {"CPU": config.placement.learner_cpus, "GPU": config.placement.learner_gpus}
    name = f"concerto:{plan.run_dir.name}"
    pool = LearnerPool(
        LearnerConfig(
            policy=config.policy.model_copy(update={"model": plan.model}),
            optimizer=config.learner,
            sft=config.sft,
            grpo=config.grpo,
            seed=config.seed,
        ),
        run_name=plan.run_dir.name,
        storage=plan.run_dir / "ray_train",
        num_workers=config.placement.learner_workers,
        resources_per_worker={name: share for name, share in resources.items() if share},
    )
    options = {"name": f"{name}:router", "num_cpus": 0, "max_restarts": -1, "max_task_retries": 2}
    unnamed = open_channels(config, plan.channels, plan.model)
    parts = (config.grpo, config.reward, plan.channels, config.seed, unnamed)
    router: Any = ray.remote(RouterActor).options(**options).remote(*parts)
    conductor = _conductor(plan, f"{name}:conductor") if config.reward.scalariser == "conductor" else None
    learner = RayLearner(pool, _routing_of(plan, pool, router, demonstrations), _training_of(plan, pool, conductor))
    try:
        learner.start(config.placement.start_timeout_s)
        yield learner
    finally:
        try:
            await learner.stop()
        finally:
            ray.kill(router)
            if conductor is not None:
                conductor.stop()


def _conductor(plan: Plan, name: str) -> RemoteConductor:
    hidden = AutoConfig.from_pretrained(plan.model).hidden_size
    options = {"name": name, "num_cpus": 0}
    return RemoteConductor(start_conductor(plan.channels, hidden, plan.config.reward.conductor, options))


def _routing_of(plan: Plan, pool: LearnerPool, router: Any, demonstrations: pa.Table) -> PlainRouting | OnlineRouting:
    config = plan.config.router
    reader = NothingToRead() if READ.isdisjoint(plan.channels) else PolicyReader(pool, router)
    plain = PlainRouting(router, reader, demonstrations)
    if not config.online:
        return plain
    memory, budget = (
        OnlineRouter(make_arbiter(config, plan.config.seed)),
        config.token_budget if config.probes else None,
    )
    return OnlineRouting(plain, pool, memory, budget, ray.put(demonstrations))


def _training_of(plan: Plan, pool: LearnerPool, conductor: RemoteConductor | None) -> PlainTraining | ConductedTraining:
    config, reward = plan.config, plan.config.reward
    watch = ConstantWatch(reward.constant_limit)
    if conductor is not None:
        advantage = ADVANTAGES[config.grpo.advantage]
        return ConductedTraining(pool, conductor, reward.conductor, advantage, config.seed, watch)
    return PlainTraining(pool, watch if reward.scalariser != "single" else None)


@contextmanager
def _stop_on_signal(coordinator: Coordinator, observer: RunObserver) -> Iterator[None]:
    """The first SIGINT or SIGTERM asks for a clean stop, the second ends the run at once."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    asked = False

    def stop() -> None:
        nonlocal asked
        if asked:
            task.cancel()
            return
        asked = True
        observer.say("stopping after this step; once more stops at once")
        coordinator.stop()

    signals = (signal.SIGINT, signal.SIGTERM)
    for number in signals:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in signals:
            with contextlib.suppress(ValueError):
                loop.remove_signal_handler(number)


def _check_same_run(config: RunConfig, run_dir: Path) -> None:
    """Raises UserError when a resumed run would train something else."""
    file = run_dir / "config.yaml"
    if not file.exists():
        raise UserError(f"{run_dir} holds no run to resume: leave out --resume, or name another --out.")
    saved = check_config(yaml.safe_load(file.read_text()))
    before, now = (one.model_dump(exclude=FREE_TO_CHANGE) for one in (saved, config))
    for name in now:
        if before[name] != now[name]:
            raise UserError(
                f"the section {name!r} differs from that of the run in {run_dir}: resume with --config {file}, "
                "or start a new run with another --out."
            )
