"""`concerto eval`: play a whole panel, greedily and sampled, without a run."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from cluster.config.run import RunSettings
from cluster.inputs.experience_plan import frozen_book
from cluster.inputs.model_check import check_model, rounding
from cluster.inputs.models import resolve_model
from cluster.inputs.reward_channels import check_evaluator
from cluster.reporting.advised import evaluate_advised
from cluster.reporting.evaluation import Evaluation, Sampling, Subject, evaluate_panel, write_evaluations
from cluster.reporting.kept_rollouts import KeptRollouts
from cluster.runtime.raters import JudgeWatch, judged_rollouts, open_evaluator
from cluster.runtime.session import check_resources, open_fleet, ray_cluster
from envs import Panel, make_environment
from experience.advice import Book
from trajectories.files import remove


def run_evaluation(
    config: RunSettings, panel: Panel, limit: int | None, samples: int, out: Path, console: Console
) -> Evaluation:
    """Play a panel greedily, and `samples` times at the temperature of training, and write the result to `out`.

    Until then every task lies in `<out>.played.jsonl` as soon as it is played, and stays there when the rest fails.

    Raises UserError for wrong input, before anything is started.
    """
    check_evaluator(config, [panel])
    model = check_model(config, [panel.environment])
    if line := rounding(model, config.fitted_rollout.engine.dtype):
        console.print(line, markup=False, highlight=False)
    make_environment(panel.environment, *config.opening(panel.environment)).close()  # whatever is missing is told now
    book = frozen_book(config.experience, panel, out.parent)
    sampling = Sampling(samples, config.schedule.temperature.end, config.seed, config.eval_turns)
    evaluate = partial(
        evaluate_panel, panel=panel, sampling=sampling, subject=Subject(config.policy.model), limit=limit
    )
    played = out.with_name(f"{out.name}.played.jsonl")
    remove(played)
    with ray_cluster(config.placement):
        result = asyncio.run(_evaluate(config, panel.environment, book, evaluate, played, console))
    write_evaluations(out, (result,))
    remove(played)
    return result


async def _evaluate(
    config: RunSettings, environment: str, book: Book | None, evaluate: partial[Any], played: Path, console: Console
) -> Evaluation:
    await check_resources(config, trains=False, say=console.print)
    console.print("starting the engine")
    model = resolve_model(config.policy.model)
    async with (
        open_fleet(config, model, [environment], "eval") as fleet,
        open_evaluator(config, model, "eval") as evaluator,
    ):
        say = partial(console.print, markup=False, highlight=False)
        with Progress(console=console, disable=not console.is_terminal) as progress:
            bar = progress.add_task("episodes", total=None)

            def tell(done: int, total: int) -> None:
                progress.update(bar, completed=done, total=total)

            rollouts = KeptRollouts(judged_rollouts(fleet, evaluator, JudgeWatch(evaluator, say).look), played)
            told = config.experience.max_tokens
            return await evaluate_advised(rollouts, book, told, partial(evaluate, progress=tell))
