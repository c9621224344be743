"""`written_aside`: a file or folder appears under its name when it is complete, or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_aside(target: Path) -> Iterator[Path]:
    """A path beside `target`, hidden, to write a file or a folder at; it gets `target`'s name when the block ends.

    What had the name before is replaced. A block that raises leaves `target` as it was and nothing beside it; what a
    killed process left is overwritten by the next write. The folder of `target` is made where it is missing. One
    process at a time may write a target.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    aside, before = target.with_name(f".{target.name}.part"), target.with_name(f".{target.name}.before")
    _remove(aside)
    _remove(before)
    try:
        yield aside
        if target.is_dir():  # a folder that is not empty cannot be replaced in one move, and deleting it takes a while
            target.rename(before)
        aside.replace(target)
        _remove(before, ignore_errors=True)
    finally:
        _remove(aside, ignore_errors=True)  # what raised says more than what hinders cleaning up


def _remove(path: Path, ignore_errors: bool = False) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors)
    else:
        path.unlink(missing_ok=True)
