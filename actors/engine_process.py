"""A child process and its private files: environment variables, an end with its parent, last words. No vLLM here."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

PREFIX = "concerto-engine-"


@contextmanager
def environment(variables: dict[str, str]) -> Iterator[None]:
    """Set while the engine's process starts and inherits them, restored afterwards."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def die_with_parent(directory: Path | None) -> None:
    """Wait for the parent's end, however it comes, and follow it; vLLM itself would stay behind after a kill -9.

    Args:
        directory: removed on the way.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    if directory is not None:
        shutil.rmtree(directory, ignore_errors=True)
    os.kill(os.getpid(), signal.SIGKILL)


def private_directory() -> tuple[Path, IO[bytes]]:
    """A new directory in shared memory, and the lock that marks it as in use until it is closed or this process ends.

    Directories of processes that ended too suddenly to tidy up are removed on the way.
    """
    shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir()
    for lock in Path(shared).glob(f"{PREFIX}*/lock"):
        with suppress(OSError), lock.open("rb") as file:  # still locked, or someone else's, or just removed
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent, ignore_errors=True)
    directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=shared))
    file = (directory / "lock.new").open("wb")
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    (directory / "lock.new").rename(directory / "lock")  # never seen unlocked
    return directory, file


def log_file(directory: Path, worker: int | None = None) -> Path:
    """Where the child writes its errors, or a worker in a process of its own."""
    return directory / ("errors.log" if worker is None else f"worker-{worker}.log")


def last_words(directory: Path) -> str:
    """The last line that the engine's process logged as an error: with a traceback, the exception."""
    return _last_line(log_file(directory))


def failed_start(directory: Path) -> str:
    """Why the engine did not start: the last words of a worker, of whose failure the engine's process says only that
    there was one; else its own."""
    workers = (_last_line(log) for log in sorted(directory.glob("worker-*.log")))
    return next(filter(None, workers), "") or last_words(directory)


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def one_line(error: BaseException) -> str:
    """The error's text without line breaks, at most 500 letters."""
    return " ".join(str(error).split())[:500] or type(error).__name__
