"""What the end of a command means to its user: exit code and one line."""

from __future__ import annotations

import asyncio

from actors.conductor import ConductorError
from actors.engine import EngineError
from cluster.loop.coordinator import Interrupted
from cluster.loop.stream import RunError
from learners.policy.parity import ParityError
from learners.workers.pool import LearnerError

FAILED, INTERRUPTED = 1, 130


def explain(error: BaseException) -> tuple[int, str] | None:
    """(exit code, line) of an end that is not our bug; None for everything else, which deserves its traceback."""
    if isinstance(error, Interrupted):
        return INTERRUPTED, f"{error}; checkpoint written, go on with --resume"
    if isinstance(error, (KeyboardInterrupt, asyncio.CancelledError)):
        return INTERRUPTED, "interrupted"
    if isinstance(error, (LearnerError, ConductorError)):
        return FAILED, f"{error}\ngo on from the last checkpoint with --resume"
    if isinstance(error, (EngineError, ParityError, RunError)):
        return FAILED, str(error)
    return None
