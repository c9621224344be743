"""`concerto eval`: play a whole panel, greedily and sampled, without a run."""

from __future__ import annotations

import asyncio
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from cluster.config.run import RunSettings
from cluster.inputs.models import load_tokenizer, resolve_model
from cluster.reporting.evaluation import Evaluation, Sampling, Subject, evaluate_panel, write_evaluations
from cluster.runtime.session import (
    check_resources,
    open_fleet,
    ray_cluster,
)
from envs import Panel, load_panel, make_environment
from trajectories.errors import UserError


def run_evaluation(
    config: RunSettings, panel_name: str, limit: int | None, temperature: float, out: Path, console: Console
) -> tuple[Evaluation, ...]:
    """Play a panel greedily and at `temperature`, and write both results to `out`.

    Raises UserError for wrong input, before anything is started.
    """
    if out.is_dir():
        raise UserError(f"{out} is a directory: name a JSON file with --out.")
    model = resolve_model(config.policy.model)
    load_tokenizer(model, config.rollout.prompt)
    panel = load_panel(panel_name, *config.opening(panel_name))
    make_environment(panel.environment, *config.opening(panel_name)).close()  # whatever is missing is told now
    max_turns = config.evaluation.max_turns
    passes = (Sampling(0.0, config.seed, max_turns), Sampling(temperature, config.seed, max_turns))
    with ray_cluster(config.placement):
        results = asyncio.run(_evaluate(config, model, panel, limit, passes, console))
    write_evaluations(out, results)
    return results


async def _evaluate(
    config: RunSettings, model: str, panel: Panel, limit: int | None, passes: tuple[Sampling, ...], console: Console
) -> tuple[Evaluation, ...]:
    await check_resources(config.placement, with_learner=False, say=console.print)
    console.print("starting the engine")
    results = []
    async with open_fleet(config, model, [panel.environment], "eval") as fleet:
        with Progress(console=console, disable=not console.is_terminal) as progress:
            for sampling in passes:
                task = progress.add_task("greedy" if sampling.temperature == 0 else "sampled", total=None)
                result = await evaluate_panel(
                    fleet,
                    panel,
                    sampling,
                    Subject(config.policy.model),
                    limit,
                    progress=lambda done, total, task=task: progress.update(task, completed=done, total=total),
                )
                results.append(result)
    return tuple(results)
