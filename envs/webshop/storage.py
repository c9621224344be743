"""Files that are built once a node and then mapped into memory by every process that reads them.

A memory map costs a process no private memory: all readers share the operating system's page cache.
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from trajectories.errors import StorageError, UserError
from trajectories.files import written_aside

logger = logging.getLogger(__name__)

CACHE_VARIABLE = "CONCERTO_CACHE"
BUILD_TIMEOUT_S = 4 * 3600.0
"""How long a process waits for another one that builds the same files. The full catalogue takes the better part of an
hour; a builder that dies gives its lock back at once."""
POLL_S = 0.1


def cache_root() -> Path:
    """Where built files go: `$CONCERTO_CACHE`, or `concerto` in the user's cache folder."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "concerto"


def build_once(target: Path, build: Callable[[Path], None], timeout_s: float = BUILD_TIMEOUT_S) -> None:
    """Make sure that the folder `target` exists: `build` fills a folder beside it, which is then renamed.

    One process builds, the others wait for it. Whatever ends the builder, `target` is complete or absent.

    Raises:
        UserError: the cache folder cannot be written, or another process was still building after `timeout_s` seconds.
    """
    if target.is_dir():
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.with_suffix(".lock"), timeout_s):
            if target.is_dir():
                return
            with written_aside(target) as aside:
                aside.mkdir()
                build(aside)
    except (OSError, StorageError) as error:
        raise UserError(
            f"cannot build in {target.parent} ({error}); set {CACHE_VARIABLE} to a folder with room"
        ) from error


@contextmanager
def _locked(path: Path, timeout_s: float) -> Iterator[None]:
    deadline = time.monotonic() + timeout_s
    with path.open("w") as lock:
        announced = False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise UserError(
                        f"another process has been building {path.with_suffix('')} for {timeout_s:.0f} s; "
                        "wait for it or end it"
                    ) from None
                if not announced:
                    logger.info("waiting for another process to build %s", path.with_suffix(""))
                    announced = True
                time.sleep(POLL_S)
        yield


class RecordWriter:
    """Byte strings one after another in `<name>.bin`, their bounds in `<name>.npy`."""

    def __init__(self, directory: Path, name: str) -> None:
        self._bounds_path = directory / f"{name}.npy"
        self._file = (directory / f"{name}.bin").open("wb")
        self._bounds = [0]

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.write(b"\n")  # a file of no bytes cannot be mapped
        self._file.close()
        np.save(self._bounds_path, np.asarray(self._bounds, dtype=np.int64))

    def append(self, record: bytes) -> None:
        self._file.write(record)
        self._bounds.append(self._bounds[-1] + len(record))


class Records:
    """The byte strings of a `RecordWriter`, read through a memory map."""

    def __init__(self, directory: Path, name: str) -> None:
        self._bounds = map_array(directory, name)
        with (directory / f"{name}.bin").open("rb") as file:
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def __getitem__(self, row: int) -> bytes:
        return self._bytes[self._bounds[row] : self._bounds[row + 1]]


def map_array(directory: Path, name: str) -> npt.NDArray:
    """The array `<name>.npy`, mapped read-only. A plain view: indexing a `np.memmap` costs three times as much."""
    return np.asarray(np.load(directory / f"{name}.npy", mmap_mode="r", allow_pickle=False))
