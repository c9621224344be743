"""How a learner worker's process uses its machine, where that machine has no GPU."""

from __future__ import annotations

import contextlib
import ctypes
import os

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3)."""


def cores_of_worker() -> int:
    """Cores of one worker, if the workers of its machine share all that they may use."""
    return max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def keep_freed_memory() -> None:
    """Let the C library re-use what freed tensors held, instead of giving it back to the system and asking again with
    the next pass: an eighth of a training step goes into these page faults otherwise. No effect without glibc."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_MMAP_THRESHOLD, 32 * 2**20)  # the largest that glibc accepts
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
