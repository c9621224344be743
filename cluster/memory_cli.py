"""The commands `concerto memory …`."""

from __future__ import annotations

from os.path import expanduser
from pathlib import Path
from typing import Annotated

import typer

from cluster.cli_options import AT, CONSOLE
from trajectories.files import check_file

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
