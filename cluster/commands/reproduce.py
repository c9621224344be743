"""`concerto reproduce`: a paper's main table by a recipe, beside the published numbers.

What is trained is a comparison (`concerto compare`) in OUT, with a run before it where all arms start from one; what is
asked is a stream of questions. The same command goes on with its folder.
"""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console

from cluster.commands.compare import check_same, compare_matrix, train_run
from cluster.commands.recipes import RecipeJob, starting_model
from cluster.config.recipe import Recipe
from cluster.inputs.run_plan import plan_run
from cluster.reporting.curve import is_finished
from cluster.reporting.reproduced import Reproduced, Values, measured_runs, measured_streams, page, reproduced
from envs.webshop.sources import installed_folder
from trajectories.errors import UserError
from trajectories.files import reading, written_aside

MARK = "recipe.json"
"""Says what a folder is of."""


def run_reproduce(job: RecipeJob, out: Path, console: Console) -> Reproduced:
    """Run what is not finished of a checked recipe, then write `OUT/reproduced.md` and `reproduced.json`.

    Raises:
        UserError: something that it needs is missing, or `out` holds another recipe.
        RunError: a run failed; the message names its log.
        ComparisonInterrupted: the run under way was interrupted.
    """
    out = out.resolve()  # runs name the model that they start from, and may be resumed from another folder
    _check_folder(job, out)
    recipe = job.recipe
    model, seeds, values = (_train if recipe.trains else _ask)(job, out, console)
    result = reproduced(recipe, job.size, model, seeds, values)
    with written_aside(out / "reproduced.md") as aside:
        aside.write_text(page(result), encoding="utf-8")
    with written_aside(out / "reproduced.json") as aside:
        aside.write_text(result.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return result


def _train(job: RecipeJob, out: Path, console: Console) -> tuple[str, tuple[int, ...], Values]:
    """What the arms start from, their seeds, and their values."""
    recipe, source = job.recipe, f"{job.name} --size {job.size}"
    start, start_dir = recipe.start_at(job.size), out / "runs" / "start"
    _check_inputs(recipe, job.size, out)
    _mark(job, out)
    if start is not None:
        check_same(start_dir, start, source)
        if not is_finished(start_dir):
            console.print("start: the run whose model all arms start from", highlight=False)
            train_run(start_dir, start)
    matrix = recipe.matrix_at(job.size, str(start_dir / "model") if start else None)
    comparison = compare_matrix(matrix, source, out, console)
    return starting_model(recipe, job.size), matrix.seeds, measured_runs(comparison, out / "runs", recipe.measures)


def _ask(job: RecipeJob, out: Path, console: Console) -> tuple[str, tuple[int, ...], Values]:
    """The model that was asked, no seeds, and the values of the arms."""
    from cluster.commands.streams import Endpoint, run_streams, write_questions  # LanceDB takes seconds to import

    assert job.base_url and job.model
    questions = job.recipe.at(job.size).questions
    tasks = Path(questions).resolve() if isinstance(questions, str) else out / "questions.jsonl"
    if isinstance(questions, int):
        write_questions(tasks, questions)
    elif not tasks.is_file():
        raise UserError(
            f"no questions at {tasks}: {job.name} --size {job.size} needs {job.recipe.at(job.size).needs[0]}."
        )
    _mark(job, out)
    summaries = run_streams(tasks, Endpoint(job.base_url, job.model), out, console)
    return job.model, (), measured_streams(summaries, job.recipe.measures)


def _check_inputs(recipe: Recipe, size: str, out: Path) -> None:
    """Whether every arm finds its model, its data and its reward channels. Raises UserError."""
    start = recipe.start_at(size)
    matrix = recipe.matrix_at(size, start.policy.model if start else None)
    runs = [matrix.runs()[f"{arm}-{matrix.seeds[0]}"] for arm in matrix.arms]
    for config in runs if start is None else [start, *runs]:
        if "webshop" in config.tasks and "webshop" not in config.data and installed_folder() is None:
            raise UserError("the original's products are not installed: run `concerto data webshop` first.")
        plan_run(config, out / "runs" / "checked", resume=False)


def _check_folder(job: RecipeJob, out: Path) -> None:
    """Raises UserError where the folder is of another recipe, size or model."""
    mark = out / MARK
    if not mark.exists():
        return
    with reading(mark, "remove it, or name another --out"):
        found = json.loads(mark.read_text(encoding="utf-8"))
    if found != _marked(job):
        held = " ".join(str(part) for part in found.values() if part)
        raise UserError(f"{out} holds {held}: give that command again, or name another --out.")


def _mark(job: RecipeJob, out: Path) -> None:
    with written_aside(out / MARK) as aside:
        aside.write_text(json.dumps(_marked(job)), encoding="utf-8")


def _marked(job: RecipeJob) -> dict[str, str | None]:
    """What must not change when the command is given again; an endpoint may move."""
    return {"recipe": job.name, "size": job.size, "model": job.model}
