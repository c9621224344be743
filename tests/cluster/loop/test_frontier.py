"""The task frontier: how a group closes, when it is taken, and that no position is ever lost."""

from __future__ import annotations

import pytest

from cluster.loop.checkpoint import PendingGroup
from cluster.loop.frontier import GroupFrontier
from cluster.loop.ports import FinishedGroup
from cluster.loop.staleness import StalenessGate


def frontier(batch: int = 1, max_staleness: int = 0, max_attempts: int = 2) -> GroupFrontier:
    """Groups of two members or more; all may run at once, and no stage ends."""
    gate = StalenessGate(concurrency=9, max_staleness=max_staleness, batch=batch, total=99)
    return GroupFrontier(gate, min_group=2, max_attempts=max_attempts)


def finished(members: int = 4, oldest_version: int = 0) -> FinishedGroup:
    return FinishedGroup("mock", members, 0, 4 - members, oldest_version, members, {}, data=None)


def test_a_group_with_exactly_min_group_members_is_ready():
    groups = frontier()
    assert groups.issue(0) == 0
    groups.close(0, finished(members=2))
    assert list(groups.ready) == [0] and not groups.pending and not groups.filtered


@pytest.mark.parametrize("max_attempts", [1, 2, 3])
def test_a_group_with_fewer_is_issued_exactly_max_attempts_times_and_then_given_up(max_attempts):
    groups = frontier(max_attempts=max_attempts)
    for _ in range(max_attempts):
        assert groups.filtered == []
        assert groups.issue(0) == 0
        groups.close(0, finished(members=1))
    assert groups.filtered == [0] and not groups.pending
    assert groups.issue(0) == 1, "another takes its place"
    assert groups.gate.submitted == max_attempts + 1 and groups.gate.filtered == max_attempts


def test_what_is_put_back_is_issued_before_what_is_new():
    groups = frontier(batch=3)
    assert [groups.issue(0) for _ in range(2)] == [0, 1]
    groups.close(0, finished(members=0))
    assert [groups.issue(0), groups.issue(0)] == [0, 2]


def test_take_itself_drops_a_ready_group_that_is_too_old_and_has_its_task_played_again():
    groups = frontier(batch=2, max_staleness=1)
    for position, version in enumerate((0, 1, 2)):
        assert groups.issue(0) == position
        groups.close(position, finished(oldest_version=version))
    assert groups.take(version=3) is None, "only one of the three is young enough"
    assert list(groups.ready) == [2]
    assert groups.pending[0] == PendingGroup(position=0) and groups.pending[1] == PendingGroup(position=1)
    assert (groups.gate.accepted, groups.gate.filtered) == (1, 2)
    assert groups.issue(3) == 0
    groups.close(0, finished(oldest_version=3))
    assert groups.take(version=3) == {2: finished(oldest_version=2), 0: finished(oldest_version=3)}
    assert groups.trained == [2, 0]


def test_a_group_of_exactly_the_greatest_age_is_trained():
    groups = frontier(max_staleness=1)
    groups.issue(0)
    groups.close(0, finished(oldest_version=2))
    assert groups.take(version=3) is not None


def test_the_oldest_data_are_taken_first():
    groups = frontier(batch=2, max_staleness=2)
    for position, version in enumerate((2, 0, 1)):
        groups.issue(0)
        groups.close(position, finished(oldest_version=version))
    taken = groups.take(version=2)
    assert taken is not None and list(taken) == [1, 2]
    assert list(groups.ready) == [0]


def test_a_snapshot_brings_back_every_position_and_what_ran_is_issued_again():
    groups = frontier(batch=1, max_staleness=5)
    for _ in range(4):
        groups.issue(0)
    groups.close(0, finished())
    assert groups.take(0)
    groups.close(1, finished())
    groups.close(2, finished(members=1))
    saved = groups.snapshot()
    assert (saved.cursor, saved.trained, saved.ready) == (4, (0,), (1,))
    assert saved.pending == (PendingGroup(position=3), PendingGroup(position=2, attempts=1))
    again = frontier(batch=1, max_staleness=5)
    again.restore(saved, {1: finished()})
    assert [again.issue(0), again.issue(0), again.issue(0)] == [3, 2, 4]
    again.close(2, finished(members=1))
    assert again.filtered == [2], "the attempt before the snapshot counts"


def test_a_lost_position_is_noticed():
    groups = frontier()
    groups.issue(0)
    groups.running.clear()
    with pytest.raises(AssertionError, match=r"positions \[\] of 1 issued"):
        groups.check()
