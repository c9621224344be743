"""Commands of `concerto` as jobs on a Ray cluster, over the head's dashboard: submit, follow, look after, stop."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shlex
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import urlsplit

from cluster.interruption import handled_in_loop
from trajectories.errors import ConcertoError, RunError, UserError, first_line, last_line

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

EXCLUDES = (
    ".git",
    ".venv",
    "/runs",
    "/build",
    "/dist",
    "__pycache__",
    "*.egg-info",
    ".*_cache",
    ".hypothesis",
    "*.pyc",
)
"""What no job needs of a working directory, as lines of a .gitignore; Ray leaves out what that names, too."""
STOP_WAIT_S = 600
"""Seconds that a job has to end its step and write a checkpoint before Ray kills it; Ray's own default is 3."""
ANSWER_S = 10.0
"""Ray's own client waits for a head without end, so it is asked by us first."""
AGENT_S = 60.0
"""A head that has just started takes jobs only when a node has its agent."""
POLL_S = 1.0
PASSED_BY = "RAY_RUNTIME_ENV_IGNORE_GITIGNORE"
"""With 1, Ray reads no .gitignore."""
TOO_LARGE = re.compile("RequestEntityTooLarge|status code 413|exceeds the maximum size")
"""What Ray, or a proxy before it, says of a working directory that is too large: a dashboard takes 100 MiB."""
TRACEBACK = "Traceback (most recent call last)"
ATTEMPTS = 30
"""Attempts in a row, `POLL_S` apart, to reach a head that is lost while its job is followed."""


class Detached(ConcertoError):
    """The user no longer follows the job, which goes on."""

    exit_code = 130


class JobFailed(ConcertoError):
    """The job ended with an error."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # pyright: ignore[reportAttributeAccessIssue]  # of this job


class JobStopped(ConcertoError):
    """The job was stopped while it was followed."""

    exit_code = 130


def connect(address: str) -> JobSubmissionClient:
    """A client of the head whose dashboard is at `address`.

    Raises UserError: there is no URL, nothing that answers, no Ray, or a token is missing or wrong.
    """
    try:
        parts = urlsplit(address)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise UserError(f"--address {address} is no URL of a Ray dashboard, such as http://head:8265")
    _check_answers(address)
    if "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ or _token_file().exists():
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # before Ray is imported, which reads it once
    with _refusals(address):
        from ray.job_submission import JobSubmissionClient

        client = JobSubmissionClient(address)
        for name in ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
            logging.getLogger(name).setLevel(logging.ERROR)  # they list every file that is left out
        return client


def submit(client: JobSubmissionClient, arguments: Sequence[str], folder: Path, variables: Mapping[str, str]) -> str:
    """Start `concerto ARGUMENTS` on the cluster; the job's id.

    Args:
        folder: working directory, which is sent to the cluster without `EXCLUDES`.
        variables: environment variables of the job and its actors.
    """
    _check_sent(folder.absolute())
    environment = {
        "working_dir": str(folder),
        "excludes": list(EXCLUDES),
        "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S), **variables},
    }
    entrypoint, deadline = shlex.join(["python", "-m", "cluster", *arguments]), time.monotonic() + AGENT_S
    with _refusals(client.get_address()):
        while True:
            try:
                return client.submit_job(entrypoint=entrypoint, runtime_env=environment)
            except RuntimeError as error:
                if TOO_LARGE.search(str(error)):
                    raise UserError(
                        f"--working-dir {folder} is too large to be sent ({_words(error)}): name a smaller folder, or "
                        "leave out with its .gitignore what the job does not need"
                    ) from error
                if "No available agent" not in str(error) or time.monotonic() > deadline:
                    raise
            time.sleep(POLL_S)  # for some seconds, the nodes of a head that has just started have no agent


def _check_sent(folder: Path) -> None:
    """Raises UserError where Ray would send an empty folder, and that only once: in its eyes `*` and `.*` in an ignore
    file leave out the folder itself, whatever other lines take back."""
    try:
        from ray._private.runtime_env.packaging import get_excludes_from_ignore_files
    except ImportError:  # another version of Ray: what it leaves out only shows on the cluster
        return
    read = os.environ.get(PASSED_BY, "0") != "1"
    ignored = get_excludes_from_ignore_files(folder, include_gitignore=read, logger=logging.getLogger(__name__))
    if any(leaves_out(folder) for leaves_out in ignored):
        raise UserError(
            f"nothing of --working-dir {folder} would be sent, since a line of its .gitignore or .rayignore (as `*` "
            f"or `.*`) leaves out the folder itself: name there what is left out, or set {PASSED_BY}=1"
        )


def details(client: JobSubmissionClient, job: str) -> JobDetails:
    """What the cluster knows of a job. Raises UserError where it has none of that id."""
    with _refusals(client.get_address()):
        try:
            return client.get_job_info(job)
        except RuntimeError as error:
            if "status code 404" in str(error):  # an id may have these digits as well
                raise UserError(
                    f"no job {job!r} at {client.get_address()}: `ray job list --address {client.get_address()}` "
                    "shows those that there are"
                ) from error
            raise


def follow(client: JobSubmissionClient, job: str, write: Callable[[str], None]) -> None:
    """Print a job's log until it ends.

    Raises:
        JobFailed: it ended with an error, with its exit code.
        JobStopped: somebody stopped it.
        Detached: a signal came; the job goes on.
        RunError: the head does not answer any more.
    """
    details(client, job)
    asyncio.run(_follow_through_signals(client, job, write))
    ended = details(client, job)
    if ended.status == "FAILED":
        code = getattr(ended, "driver_exit_code", None) or 1
        reason = (ended.message or "").partition(", last available logs")[0]  # which have been printed
        raise JobFailed(f"job {job} failed ({first_line(Exception(reason))})", code)
    if ended.status == "STOPPED":
        raise JobStopped(f"job {job} was stopped")


def stop(client: JobSubmissionClient, job: str, say: Callable[[str], None]) -> str:
    """Ask a job to end its step and write a checkpoint, and wait until it has ended; its status then.

    Raises RunError where it has not ended in time.
    """
    if not details(client, job).status.is_terminal():
        say(f"stopping {job}: it ends its step and writes a checkpoint, within {STOP_WAIT_S} s")
        with _refusals(client.get_address()):
            client.stop_job(job)
    deadline = time.monotonic() + STOP_WAIT_S + ANSWER_S
    while not (status := details(client, job).status).is_terminal():
        if time.monotonic() > deadline:
            raise RunError(f"job {job} has not ended within {STOP_WAIT_S} s: look at the cluster's dashboard")
        time.sleep(POLL_S)
    return str(status.value)


async def _follow_through_signals(client: JobSubmissionClient, job: str, write: Callable[[str], None]) -> None:
    following = asyncio.ensure_future(_follow(client, job, write))
    with handled_in_loop(following.cancel):
        try:
            await following
        except asyncio.CancelledError:
            at = f"{job} --address {client.get_address()}"
            line = f"job {job} goes on: `concerto jobs logs {at}` follows, `concerto jobs stop {at}` ends it"
            raise Detached(line) from None


async def _follow(client: JobSubmissionClient, job: str, write: Callable[[str], None]) -> None:
    """Through losses of the connection: Ray then gives the log from its start again."""
    written = lost = 0
    while True:
        passed = 0
        try:
            async for text in client.tail_job_logs(job):
                write(text[max(0, written - passed) :])
                passed += len(text)
                written, lost = max(written, passed), 0
            if (await asyncio.to_thread(client.get_job_status, job)).is_terminal():
                return
        except (OSError, RuntimeError) as error:  # those of aiohttp and requests are OSErrors, or Ray's RuntimeError
            lost += 1
            if lost == ATTEMPTS:
                raise RunError(f"the head at {client.get_address()} is lost ({first_line(error)})") from error
        await asyncio.sleep(POLL_S)


def _check_answers(address: str) -> None:
    """Raises UserError where nothing that could be a dashboard answers in time."""
    try:
        with urllib.request.urlopen(f"{address.rstrip('/')}/api/version", timeout=ANSWER_S):
            return
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):  # a token is wanted, which Ray's client has
            return
        reason = f"HTTP {error.code}"
    except Exception as error:  # of the socket, of TLS, or of what answers
        inner = getattr(error, "reason", None)  # URLError has the true one inside
        reason = first_line(inner if isinstance(inner, Exception) else error)
    raise UserError(f"no Ray dashboard at {address} ({reason}): name that of a running head with --address")


@contextmanager
def _refusals(address: str) -> Iterator[None]:
    """What Ray's job client raises, in one line."""
    try:
        yield
    except ConcertoError:
        raise
    except Exception as error:
        _refuse(address, error)


def _refuse(address: str, error: Exception) -> NoReturn:
    from ray.exceptions import AuthenticationError

    if isinstance(error, AuthenticationError):
        raise UserError(
            f"{address} does not accept the token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to that of the cluster"
        ) from error
    if isinstance(error, OSError | RuntimeError | ValueError):
        raise UserError(f"{address} refuses ({_words(error)})") from error
    raise error


def _words(error: Exception) -> str:
    """What an error says in one line; of one that quotes a traceback, as Ray's dashboard does, what that ends with."""
    return last_line(Exception(str(error).rstrip(".\n"))) if TRACEBACK in str(error) else first_line(error)


def _token_file() -> Path:
    return Path.home() / ".ray" / "auth_token"
