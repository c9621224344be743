"""What Ray says when a process, its node or what lay in its memory is gone, as an error that a run can go on from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ray.exceptions import ObjectLostError, RayActorError, RayTaskError

from trajectories.errors import ConcertoError, WorkersLost, first_line

LOST = (RayActorError, ObjectLostError)
"""An actor died, is being restarted or cannot be reached; or the only copy of an object went with its node."""


@contextmanager
def told_as_lost(what: str) -> Iterator[None]:
    """Raises WorkersLost for such an error, also for one that a task has met with. A run goes on from its last
    checkpoint then; whatever else is raised stays as it is.

    Args:
        what: what is gone for the run, as "the learner workers".
    """
    try:
        yield
    except RayTaskError as error:
        if isinstance(error.cause, LOST):
            raise WorkersLost(f"{what} cannot be had: {first_line(error.cause)}") from error
        raise
    except LOST as error:
        raise WorkersLost(f"{what} cannot be had: {first_line(error)}") from error


@contextmanager
def own_words() -> Iterator[None]:
    """An error of ours that an actor raised within the block, as it was raised there: one line, not Ray's report."""
    try:
        yield
    except RayTaskError as error:
        if isinstance(error.cause, ConcertoError):
            raise error.cause from None
        raise
