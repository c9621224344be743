"""Files that are complete or not there, and what to say where a disk does not let them be.

`written_aside` gives a file or folder its name when it is complete. `storing` names what could not be written,
`reading` what could not be read, and `check_file` and `check_folder` find out before anything is started.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trajectories.errors import ConcertoError, StorageError, UserError, first_line

MEBIBYTE = 2**20
LEAST_FREE = 16 * MEBIBYTE
"""Bytes that a disk must have free before a command begins to write to it."""
FULL = MEBIBYTE
"""Bytes: a disk with less has no room, whatever the library says that failed to write there."""
FAULTS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG})
"""What an OSError says when the disk is at fault, not the code."""

NO_ROOM = tuple(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS))
"""The system's words for it, which safetensors hands on in an error of its own."""


@contextmanager
def written_aside(target: Path) -> Iterator[Path]:
    """A path beside `target`, hidden, to write a file or a folder at; it gets `target`'s name when the block ends.

    What had the name before is replaced, but never a folder by a file. A block that raises leaves `target` as it was
    and nothing beside it; what a killed process left is overwritten by the next write. The folder of `target` is made
    where it is missing. One process at a time may write a target.

    Raises StorageError where the disk does not take it, and UserError where a folder has the name of a file.
    """
    aside, before = target.with_name(f".{target.name}.part"), target.with_name(f".{target.name}.before")
    with storing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        remove(aside)
        remove(before)
        try:
            with storing(target):  # here, because cleaning up makes room on a full disk
                yield aside
                if target.is_dir():  # a folder that is not empty cannot be replaced in one move; deleting it takes long
                    if not aside.is_dir():
                        raise _is_folder(target, "--out")
                    target.rename(before)
                aside.replace(target)
            remove(before, ignore_errors=True)
        finally:
            remove(aside, ignore_errors=True)  # what raised says more than what hinders cleaning up


@contextmanager
def storing(target: Path) -> Iterator[None]:
    """For a block that writes `target`, by whatever library: raises StorageError where the disk is at fault."""
    try:
        yield
    except ConcertoError:
        raise
    except Exception as error:  # torch and safetensors have errors of their own for a full disk
        if reason := _fault(error, target):
            raise StorageError(f"cannot write {target} ({reason})") from error
        raise


@contextmanager
def reading(path: Path, fix: str) -> Iterator[None]:
    """For a block that reads `path` and nothing else: raises UserError where that is missing, unreadable or damaged.

    Damaged is what a parser refuses with a ValueError: JSON, Arrow, pydantic and UTF-8 all do. Where JSON is nested too
    deeply, Python's has a RecursionError.
    """
    try:
        yield
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {path} ({in_words(error)}): {fix}") from error


def check_file(target: Path, option: str = "--out") -> None:
    """Whether the file `target`, the value of an option, can be written. Leaves nothing behind.

    Raises UserError: there is one already, which may have taken hours, or a folder, or it cannot be written.
    """
    if target.is_dir():
        raise _is_folder(target, option)
    if target.exists():
        raise UserError(f"{target} exists: remove it, or name another {option}.")
    _check_writable(target, LEAST_FREE, option)


def check_folder(target: Path, needed: int = LEAST_FREE) -> None:
    """Whether `needed` bytes can be written in the folder `target`, there or not yet. Leaves nothing behind.

    Raises UserError: it is a file, or it cannot be written.
    """
    if target.exists() and not target.is_dir():
        raise UserError(f"{target} is a file: name a folder with --out.")
    _check_writable(target, needed, "--out")


def _is_folder(target: Path, option: str) -> UserError:
    return UserError(f"{target} is a folder: name a file with {option}.")


def _check_writable(target: Path, needed: int, option: str) -> None:
    """Raises UserError: the folder refuses writing, or its disk has too little room."""
    folder = target if target.is_dir() else target.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.TemporaryDirectory(prefix=".concerto-", dir=folder) as probe:
            (Path(probe) / "file").write_bytes(b"concerto")
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise UserError(f"cannot write {target} ({in_words(error)}): name another {option}.") from None
    if free < needed:
        raise UserError(
            f"no room for {target}: {free / MEBIBYTE:.0f} MiB are free and {needed / MEBIBYTE:.0f} MiB are the least "
            f"that is needed; free some, or name another {option}."
        )


def read_lines(path: Path) -> tuple[list[dict[str, Any]], bool]:
    """The objects in a file of JSON lines that we append to, and whether its last line was torn and is left out, as a
    killed process or a full disk leaves it.

    Raises UserError when the file, or a line before the last, cannot be read.
    """
    with reading(path, "check its permissions."):
        lines = path.read_bytes().splitlines()
    records: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                return records, True
            raise UserError(f"cannot read line {number} of {path} ({first_line(error)}): remove that line.") from None
    return records, False


def in_words(error: Exception) -> str:
    """What an error says of a file, without the file's name."""
    if isinstance(error, FileNotFoundError):  # Arrow's says the name alone
        return os.strerror(errno.ENOENT)
    return (isinstance(error, OSError) and error.strerror) or first_line(error)


def remove(path: Path, ignore_errors: bool = False) -> None:
    """Delete a file or a folder with all in it; nothing where there is none."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors)
    else:
        path.unlink(missing_ok=True)


def _fault(error: Exception, target: Path) -> str | None:
    """What is wrong with the disk of `target`; None where it is not at fault."""
    if isinstance(error, OSError) and error.errno in FAULTS:
        return in_words(error) if _concerns(error.filename, target) else None
    if words := [words for words in NO_ROOM if words in str(error)]:
        return words[0]
    folder = target.parent
    return "no room is left on the disk" if folder.is_dir() and shutil.disk_usage(folder).free < FULL else None


def _concerns(name: str | None, target: Path) -> bool:
    """Whether the file that an OSError names is what was to be written, in or above it; also where it names none."""
    if name is None:
        return True
    named, folder = Path(name).resolve(), target.parent.resolve()
    return named.is_relative_to(folder) or folder.is_relative_to(named)
