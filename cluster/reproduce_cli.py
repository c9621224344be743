"""The command `concerto reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cluster.cli_options import AT, CONSOLE
from trajectories.errors import UserError
from trajectories.files import check_folder


def reproduce(
    recipe: Annotated[str | None, typer.Argument(help="Recipe; --list names them.")] = None,
    size: Annotated[str, typer.Option(help="local (no GPU), gpu (one GPU) or cluster (eight or more).")] = "local",
    out: Annotated[
        Path | None, typer.Option(help="Folder of the runs and the table; the same command goes on with it.", **AT)
    ] = None,
    base_url: Annotated[
        str | None, typer.Option(help="Endpoint that se-gpt asks, e.g. http://localhost:8000/v1.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The model's name at that endpoint.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and start nothing.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="Print the recipes and their sizes.")] = False,
) -> None:
    """Run a paper's main table by a recipe, and write it beside the published numbers."""
    from cluster.commands.recipes import RecipeJob, list_recipes, plan_lines

    if list_:
        CONSOLE.print(*list_recipes(), sep="\n", highlight=False, markup=False)
        return
    if recipe is None:
        raise UserError("name a recipe: `concerto reproduce --list` shows them.")
    job = RecipeJob(recipe, size, base_url, model)
    if dry_run:
        CONSOLE.print(*plan_lines(job), sep="\n", highlight=False, markup=False)
        return
    if out is None:
        raise UserError("name a folder for the runs and the table with --out DIR, or add --dry-run.")
    job.check()  # before the imports that take seconds
    check_folder(out)
    from cluster.commands.reproduce import run_reproduce
    from cluster.reporting.reproduced import page

    CONSOLE.print(page(run_reproduce(job, out, CONSOLE)), highlight=False, markup=False)
    CONSOLE.print(f"Written to {out}: reproduced.md, reproduced.json.")
