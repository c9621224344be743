"""The commands `concerto memory …` and `concerto learn`."""

from __future__ import annotations

from os.path import expanduser
from pathlib import Path
from typing import Annotated

import typer

from cluster.cli_options import AT, CONSOLE
from trajectories.files import check_file, check_folder

memory_app = typer.Typer(help="Look at a memory of experience, or return to an earlier state.", no_args_is_help=True)

MemoryPath = Annotated[
    str, typer.Argument(parser=expanduser, metavar="DIR", help="Folder or URI of `concerto learn --memory`.")
]
Snapshot = Annotated[int | None, typer.Option(help="Number of a snapshot; none for the present state.")]


@memory_app.command("show")
def memory_show(path: MemoryPath, snapshot: Snapshot = None) -> None:
    """Print the task types and what is known of them."""
    from cluster.commands.memory import show_memory

    CONSOLE.print(*show_memory(path, snapshot), sep="\n", highlight=False, markup=False)


@memory_app.command("export")
def memory_export(
    path: MemoryPath, out: Annotated[Path, typer.Option(help="JSON file to write.", **AT)], snapshot: Snapshot = None
) -> None:
    """Write the task types, their experience and the examples behind it as JSON."""
    check_file(out)
    from cluster.commands.memory import export_memory

    CONSOLE.print(f"{export_memory(path, out, snapshot)} types written to {out}.")


@memory_app.command("diff")
def memory_diff(
    path: MemoryPath,
    before: Annotated[int, typer.Argument(help="Number of a snapshot.")],
    after: Annotated[int | None, typer.Argument(help="Number of a later one; none for the present state.")] = None,
) -> None:
    """Print what changed between two snapshots."""
    from cluster.commands.memory import diff_memory

    CONSOLE.print(*diff_memory(path, before, after), sep="\n", highlight=False, markup=False)


@memory_app.command("restore")
def memory_restore(
    path: MemoryPath, snapshot: Annotated[int, typer.Option(help="Number of the snapshot to return to.")]
) -> None:
    """Return to a snapshot. Nothing is lost: the state before stays a snapshot."""
    from cluster.commands.memory import restore_memory

    CONSOLE.print(f"Snapshot {snapshot} is the present state again, as snapshot {restore_memory(path, snapshot)}.")


def learn(
    tasks: Annotated[Path, typer.Option(help="File of questions, e.g. questions.jsonl.", **AT)],
    base_url: Annotated[str, typer.Option(help="OpenAI-compatible endpoint, e.g. http://localhost:8000/v1.")],
    model: Annotated[str, typer.Option(help="The model's name at the endpoint.")],
    memory: Annotated[
        str, typer.Option(parser=expanduser, help="Folder or URI of the memory; made where there is none.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the results; the same command goes on with it.", **AT)],
    references: Annotated[Path | None, typer.Option(help="JSON lines with a text each to practise on.", **AT)] = None,
    embedder: Annotated[str, typer.Option(help="Sentence-embedding model: folder or name.")] = "all-MiniLM-L6-v2",
    no_transfer: Annotated[bool, typer.Option("--no-transfer", help="Take nothing over from other types.")] = False,
    no_induction: Annotated[bool, typer.Option("--no-induction", help="Show practised examples instead.")] = False,
    token_budget: Annotated[int | None, typer.Option(min=1, help="Tokens after which to stop; none: no end.")] = None,
    replay: Annotated[int, typer.Option(min=0, help="Earlier questions to try changed advice on, 6 or more.")] = 0,
    unite: Annotated[bool, typer.Option("--unite", help="Unite types that a vote calls identical.")] = False,
) -> None:
    """Serve a stream of questions and learn from it without labels: categorise, transfer, practise, induce, answer."""
    check_folder(out)
    from cluster.commands.learn import LearnJob, run_learn, token_table
    from experience.learning import Ablation
    from experience.upkeep import Upkeep

    texts = None if references is None else str(references)
    ablation, upkeep = Ablation(not no_transfer, not no_induction), Upkeep(replay, unite)
    job = LearnJob(str(tasks), model, memory, embedder, texts, ablation, upkeep)
    result = run_learn(job, base_url, token_budget, out, CONSOLE)
    CONSOLE.print(token_table(result))
    if result.unanswered:
        CONSOLE.print(f"{result.unanswered} questions got no answer; the same command asks them again.")
    CONSOLE.print(f"Right: {result.success} of {result.success.episodes} with a reference.", highlight=False)
    CONSOLE.print(f"The memory {memory} has {result.types} types with {result.items} items; results are in {out}.")
