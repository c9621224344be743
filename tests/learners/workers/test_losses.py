from __future__ import annotations

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, ObjectLostError, RayTaskError

from learners.workers.losses import told_as_lost
from trajectories.errors import UserError, WorkersLost

LOST = ObjectLostError("0" * 56, None, "call")
GONE = [ActorDiedError(), ActorUnavailableError("no route", b"1" * 16), LOST]


def in_a_task(cause: Exception) -> Exception:
    """As Ray hands over what a task of an actor has met with."""
    return RayTaskError("step", "a traceback", cause).as_instanceof_cause()


@pytest.mark.parametrize("error", [*GONE, *map(in_a_task, GONE)], ids=lambda error: type(error).__name__)
def test_what_is_gone_can_be_gone_on_from(error: Exception) -> None:
    with pytest.raises(WorkersLost, match=r"^a group cannot be had: ") as told, told_as_lost("a group"):
        raise error
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("error", [ValueError("no"), in_a_task(UserError("no"))], ids=["ours", "in a task"])
def test_any_other_error_stays_as_it_is(error: Exception) -> None:
    with pytest.raises(type(error)) as told, told_as_lost("a group"):
        raise error
    assert told.value is error
