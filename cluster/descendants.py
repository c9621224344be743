"""Processes that this one started, directly or not, and their end."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

_PR_SET_CHILD_SUBREAPER = 36
"""Of prctl(2): from now on this process becomes the parent of descendants whose own parent ends."""
_LONGEST_S = 2.0
"""Seconds to try: a process that hangs in the kernel ends later, or never."""


def kill_descendants(but: frozenset[psutil.Process] = frozenset()) -> None:
    """Kill them all, those that start meanwhile too, but not the children in `but` and theirs."""
    deadline = time.monotonic() + _LONGEST_S
    while time.monotonic() < deadline:
        living = [child for child in set(psutil.Process().children()) - but if _lives(child)]
        if not living:
            return
        for child in living:
            with suppress(psutil.NoSuchProcess):
                for process in (*child.children(recursive=True), child):
                    process.kill()
        time.sleep(0.02)  # what they had started becomes this one's own meanwhile


def _lives(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


@contextmanager
def none_left() -> Iterator[None]:
    """What is started inside ends with the block, also what others leave behind.

    Ray's agents mostly end with their raylet. One whose raylet ends while it is starting waits for it for good.
    """
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    before = frozenset(psutil.Process().children())
    try:
        yield
    finally:
        kill_descendants(but=before)
