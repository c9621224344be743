"""`concerto eval`: play a whole panel, greedily and sampled, without a run."""

from __future__ import annotations

import asyncio
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from cluster.config.run import RunSettings
from cluster.inputs.model_check import check_model
from cluster.inputs.models import resolve_model
from cluster.reporting.evaluation import Evaluation, Sampling, Subject, evaluate_panel, write_evaluations
from cluster.reporting.kept_rollouts import KeptRollouts
from cluster.runtime.session import (
    check_resources,
    open_fleet,
    ray_cluster,
)
from envs import Panel, load_panel, make_environment
from envs.prompts import instructions
from trajectories.files import remove


def run_evaluation(
    config: RunSettings, panel_name: str, limit: int | None, samples: int, out: Path, console: Console
) -> Evaluation:
    """Play a panel greedily, and `samples` times at the temperature of training, and write the result to `out`.

    Until then every task lies in `<out>.played.jsonl` as soon as it is played, and stays there when the rest fails.

    Raises UserError for wrong input, before anything is started.
    """
    check_model(config)
    panel = load_panel(panel_name, *config.opening(panel_name))
    make_environment(panel.environment, *config.opening(panel_name)).close()  # whatever is missing is told now
    instructions(panel.environment, config.rollout.prompt)
    sampling = Sampling(samples, config.schedule.temperature.end, config.seed, config.eval_turns)
    played = out.with_name(f"{out.name}.played.jsonl")
    remove(played)
    with ray_cluster(config.placement):
        result = asyncio.run(_evaluate(config, panel, limit, sampling, played, console))
    write_evaluations(out, (result,))
    remove(played)
    return result


async def _evaluate(
    config: RunSettings, panel: Panel, limit: int | None, sampling: Sampling, played: Path, console: Console
) -> Evaluation:
    await check_resources(config.placement, with_learner=False, say=console.print)
    console.print("starting the engine")
    async with open_fleet(config, resolve_model(config.policy.model), [panel.environment], "eval") as fleet:
        with Progress(console=console, disable=not console.is_terminal) as progress:
            bar = progress.add_task("episodes", total=None)
            return await evaluate_panel(
                KeptRollouts(fleet, played),
                panel,
                sampling,
                Subject(config.policy.model),
                limit,
                progress=lambda done, total: progress.update(bar, completed=done, total=total),
            )
