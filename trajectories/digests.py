"""Whether files are still as they were written: a folder keeps the SHA-256 digests of its files beside them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

DIGESTS = "digests.json"
"""In a folder: digests by file name, relative to it. Folders below it may have their own, for files of theirs."""
THREADS = 4
"""That read at once; SHA-256 leaves Python's lock alone meanwhile."""


def digests_of(folder: Path, files: Iterable[Path]) -> dict[str, str]:
    """The digests of some files of `folder`, by name."""
    files = list(files)
    with ThreadPoolExecutor(THREADS) as threads:
        found = list(threads.map(_digest, files))
    return {str(file.relative_to(folder)): digest for file, digest in zip(files, found, strict=True)}


def write_digests(folder: Path, digests: Mapping[str, str]) -> None:
    (folder / DIGESTS).write_text(json.dumps(digests, indent=1), encoding="utf-8")


def files_without(folder: Path) -> list[Path]:
    """The files in and below `folder`, in order, whose digests no folder keeps yet."""
    kept = {place.parent / name for place in folder.rglob(DIGESTS) for name in json.loads(place.read_text("utf-8"))}
    return sorted(file for file in folder.rglob("*") if file.is_file() and file not in kept)


def damage(folder: Path) -> str | None:
    """What is wrong with the first file in or below `folder` that is not as it was written; None where all are, or no
    digests were kept."""
    with ThreadPoolExecutor(THREADS) as threads:
        return next(filter(None, threads.map(lambda kept: _fault(folder, *kept), list(_kept(folder)))), None)


def _kept(folder: Path) -> Iterator[tuple[Path, str]]:
    """Every file that has a digest, and the digest; a file of digests that cannot be read has none of its own."""
    for place in sorted(folder.rglob(DIGESTS)):
        try:
            digests = json.loads(place.read_text("utf-8"))
            yield from [(place.parent / str(name), str(digest)) for name, digest in digests.items()]
        except (OSError, ValueError, RecursionError, AttributeError):
            yield place, ""


def _fault(folder: Path, file: Path, digest: str) -> str | None:
    name = file.relative_to(folder)
    try:
        return None if _digest(file) == digest else f"{name} is not as it was written"
    except OSError as error:
        return f"{name}: {error.strerror}"


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
