"""A child process and its private files: environment variables, an end with its parent, last words, adapters. No vLLM
here."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from actors.engine import EngineError

PREFIX = "concerto-engine-"
SHARED = Path("/dev/shm")
SHARED_ROOM = 2**30
"""Bytes that shared memory must have free to be used: adapters of several versions lie there, of some 100 MiB each. A
container has 64 MiB of it unless it was told otherwise."""


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
    """A new directory in shared memory, or on the disk where that has no room, and the lock that marks it as in use
    until it is closed or this process ends.

    Directories of processes that ended too suddenly to tidy up are removed on the way.
    """
    disk = Path(tempfile.gettempdir())
    for lock in (lock for folder in (SHARED, disk) for lock in folder.glob(f"{PREFIX}*/lock")):
        with suppress(OSError), lock.open("rb") as file:  # still locked, or someone else's, or just removed
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent, ignore_errors=True)
    roomy = os.access(SHARED, os.W_OK) and shutil.disk_usage(SHARED).free >= SHARED_ROOM
    directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=SHARED if roomy else disk))
    file = (directory / "lock.new").open("wb")
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    (directory / "lock.new").rename(directory / "lock")  # never seen unlocked
    return directory, file


def write_adapter(folder: Path, tensors: bytes, config: Mapping[str, Any]) -> None:
    """A new folder with an adapter, as PEFT writes them. Raises EngineError where there is no room for it."""
    try:
        folder.mkdir()
        (folder / "adapter_model.safetensors").write_bytes(tensors)
        (folder / "adapter_config.json").write_text(json.dumps(config))
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise EngineError(
            f"publish: an adapter of {len(tensors) / 2**20:.0f} MiB cannot be written below {folder.parent.parent} "
            f"({error.strerror}): free some room there"
        ) from error


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
