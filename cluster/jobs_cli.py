"""`concerto submit` and `concerto jobs …`: commands as jobs on a Ray cluster."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from cluster.cli_options import AT, CONSOLE
from trajectories.errors import UserError, did_you_mean

jobs_app = typer.Typer(help="Look after jobs that `concerto submit` has started.", no_args_is_help=True)

Address = Annotated[
    str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="Dashboard of the cluster, e.g. http://head:8265.")
]
Job = Annotated[str, typer.Argument(metavar="ID", help="The job's id, as `concerto submit` printed it.")]
AS_THEY_ARE = {"allow_interspersed_args": False}
"""All behind the first word that is no option belongs to the command that is submitted."""


def submit(
    context: typer.Context,
    address: Address,
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND …", help="As typed behind `concerto`.")],
    working_dir: Annotated[Path, typer.Option(help="Folder that is sent to the cluster.", **AT)] = Path("."),
    env: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE for the job. Not for secrets: the dashboard shows it.")
    ] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Return at once; do not follow the log.")] = False,
) -> None:
    """Run a command on a Ray cluster and follow its log; Ctrl-C stops following, not the job."""
    _check_command(context, command)
    if not working_dir.is_dir():
        raise UserError(f"--working-dir {working_dir} is no folder: name the one that the job needs")
    variables = dict(_assignment(text) for text in env or [])
    from cluster.commands import jobs

    client = jobs.connect(address)
    job = jobs.submit(client, command, working_dir, variables)
    _say(f"Submitted {job} to {address}.")
    if not no_wait:
        jobs.follow(client, job, _write)
        _say(f"Job {job} succeeded.")


@jobs_app.command("status")
def jobs_status(job: Job, address: Address) -> None:
    """Print what a job does: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED, and Ray's words on it."""
    from cluster.commands import jobs

    found = jobs.details(jobs.connect(address), job)
    _say(f"{found.status.value}: {(found.message or '').strip()}")


@jobs_app.command("logs")
def jobs_logs(job: Job, address: Address) -> None:
    """Print a job's log from its start, and follow it to its end; Ctrl-C stops following, not the job."""
    from cluster.commands import jobs

    jobs.follow(jobs.connect(address), job, _write)


@jobs_app.command("stop")
def jobs_stop(job: Job, address: Address) -> None:
    """Have a job end its step, write a checkpoint and end; a run goes on with --resume."""
    from cluster.commands import jobs

    _say(f"{job}: {jobs.stop(jobs.connect(address), job, _say)}")


def _check_command(context: typer.Context, command: list[str]) -> None:
    """Raises UserError and typer's errors where the command, or an option of it, is none of concerto's."""
    assert context.parent is not None
    group = context.parent.command
    known = sorted(set(group.list_commands(context.parent)) - {"submit", "jobs"})  # pyright: ignore
    if command[0] not in known:
        hint = did_you_mean(command[0], known)
        raise UserError(f"{command[0]!r} is no command that can be submitted: choose one of {', '.join(known)}.{hint}")
    group.get_command(context.parent, command[0]).make_context(command[0], list(command[1:]))  # pyright: ignore


def _assignment(text: str) -> tuple[str, str]:
    name, found, value = text.partition("=")
    if not found or not name.isidentifier():
        raise UserError(f"--env {text} is no assignment: write --env NAME=VALUE")
    return name, value


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _say(line: str) -> None:
    CONSOLE.print(line, markup=False, highlight=False)
