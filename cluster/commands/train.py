"""`concerto train`: runs a plan to its end, through signals and the death of workers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from rich.console import Console

from cluster.inputs.model_check import rounding
from cluster.inputs.run_folder import held, save_config
from cluster.inputs.run_plan import Plan, plan_run
from cluster.interruption import handled_in_loop
from cluster.loop.checkpoint import set_aside
from cluster.loop.coordinator import Coordinator, Interrupted
from cluster.reporting.best import ONLY_TEST_PANELS, choosing_panels
from cluster.reporting.curve import write_learning_curve
from cluster.reporting.entropy import EntropyWatch
from cluster.reporting.lessons import costs, lessons
from cluster.reporting.metrics import MetricsWriter, read_metrics
from cluster.reporting.progress import RunObserver
from cluster.reporting.trackers import check_trackers, open_trackers
from cluster.runtime.assembly import assembled
from cluster.runtime.session import check_resources, ray_cluster
from trajectories.errors import WorkersLost, last_line
from trajectories.files import remove, storing

MAX_DEATHS = 3
"""Deaths of learner workers at one step after which the run ends: what is at fault would only happen again."""


def run_training(plan: Plan, console: Console) -> None:
    """Train to the end of the schedule; when learner workers die, go on from the last checkpoint.

    Raises:
        Interrupted: after a stop by Ctrl-C, SIGTERM or a terminal that closed, checkpoint written.
        StorageError: the disk of the run directory is full or read-only; the last checkpoint is good.
        UserError: a service that it names has no client here, or does not take the run.
        WorkersLost: workers died `MAX_DEATHS` times without a new checkpoint in between.
    """
    check_trackers(plan.config.tracking)
    with ray_cluster(plan.config.placement):
        say = partial(console.print, markup=False, highlight=False)
        asyncio.run(check_resources(plan.config, trains=True, say=say))
        if plan.eval_panels and not choosing_panels(plan.eval_panels):
            say(ONLY_TEST_PANELS)
        if plan.config.policy.lora and (line := rounding(plan.model, plan.config.policy.dtype)):
            say(line)
        with storing(plan.run_dir):
            plan.run_dir.mkdir(parents=True, exist_ok=True)
        with held(plan.run_dir):
            _begin(plan, say)
            _train_through_deaths(plan, console, say)


def _begin(plan: Plan, say: Callable[[str], None]) -> None:
    """Clear what earlier starts left, and write down what this run is."""
    if plan.start.again:
        say(f"the start before in {plan.run_dir} reached no checkpoint: the run begins anew")
    for path in plan.start.stale:
        remove(path)
    _leave_damaged(plan, say)
    save_config(plan.config, plan.run_dir)


def _leave_damaged(plan: Plan, say: Callable[[str], None]) -> None:
    for checkpoint, fault in plan.start.damaged.items():
        aside = set_aside(checkpoint)
        say(f"{checkpoint} is damaged ({fault}): set aside as {aside.name}, going on from step {plan.manifest.step}")


def _train_through_deaths(plan: Plan, console: Console, say: Callable[[str], None]) -> None:
    deaths = 0
    while True:
        try:
            return asyncio.run(_train(plan, console))
        except WorkersLost as error:
            before, plan = plan, plan_run(plan.config, plan.run_dir, resume=True)  # a full disk ends the run here
            deaths = 1 if plan.manifest.step > before.manifest.step else deaths + 1
            if deaths == MAX_DEATHS:
                raise
            say(f"{last_line(error)}\nGoing on from step {plan.manifest.step}.")
            _leave_damaged(plan, say)


async def _train(plan: Plan, console: Console) -> None:
    say = partial(console.print, markup=False, highlight=False)
    config, step = plan.config, plan.manifest.step
    trackers = open_trackers(config.tracking, plan.run_dir, config.model_dump(mode="json"), step > 0, say)
    writer = MetricsWriter(plan.run_dir, step + 1, not config.placement.inline, say, trackers)
    try:
        with RunObserver(console, writer, EntropyWatch(config.grpo.entropy_floor)) as observer:
            async with assembled(plan, observer) as assembly:
                with _stop_on_signal(assembly.coordinator, observer):
                    await assembly.coordinator.run()
                await assembly.learner.save_pretrained(plan.run_dir / "model")
    except Interrupted:
        write_learning_curve(plan.run_dir)  # of what there is: whoever stops a run wants to see it
        raise
    write_learning_curve(plan.run_dir)
    records = read_metrics(plan.run_dir)
    for line in filter(None, [*lessons(records), costs(records)]):
        console.print(line, markup=False, highlight=False)


@contextmanager
def _stop_on_signal(coordinator: Coordinator, observer: RunObserver) -> Iterator[None]:
    """The first signal asks for a clean stop, the second ends the run at once. Before and after that
    `cluster.interruption` has them."""
    task = asyncio.current_task()
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

    with handled_in_loop(stop):
        yield
