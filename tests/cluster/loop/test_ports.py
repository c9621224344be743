"""What the loop knows of a finished group."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.loop.ports import FinishedGroup, GroupTask, finished_group
from learners.objectives.advantages import EPSILON
from tests.cluster.simulation import trajectory
from trajectories.schema import to_tables
from trajectories.types import StopReason, Trajectory


def member(number: int, stop_reason: StopReason = StopReason.DONE, **rewards: float) -> Trajectory:
    task = GroupTask("g", "mock", "task", (0,) * (number + 1), 1.0, "train")
    played = trajectory(task, number, version=0)
    return replace(played, episode=replace(played.episode, stop_reason=stop_reason, rewards=rewards))


def summed(*members: Trajectory) -> FinishedGroup:
    return finished_group(to_tables(members)[0], None)


def test_rewards_that_differ_among_the_members_are_named():
    group = summed(member(0, success=0.0, score=0.5), member(1, success=0.0, score=0.75))
    assert group.varied == {"score"}
    assert not group.is_informative(("success",)) and group.is_informative(("success", "score"))
    assert group.is_informative(("success", "entropy")), "no table holds it, so it may differ"


def test_an_episode_that_failed_does_not_make_its_group_informative():
    failed = member(2, StopReason.ERROR, success=0.0)
    group = summed(member(0, success=1.0), member(1, success=1.0), failed)
    assert (group.members, group.failed, group.varied) == (2, 1, frozenset())


def test_a_group_whose_episodes_all_failed_has_no_rewards():
    group = summed(member(0, StopReason.ERROR, success=0.0), member(1, StopReason.ERROR, success=1.0))
    assert (group.members, group.rewards, group.varied) == (0, {}, frozenset())


def test_members_that_a_limit_cut_off_are_counted():
    ends = [StopReason.TURN_LIMIT, StopReason.DONE, StopReason.LENGTH_LIMIT, StopReason.ERROR]
    group = summed(*(member(at, end, success=0.0) for at, end in enumerate([*ends, StopReason.TURN_LIMIT])))
    assert (group.truncated, group.length_limited) == (3, 1)


@given(st.lists(st.sampled_from([0.0, 0.25, 0.25 + 1e-9, 1.0]), min_size=2, max_size=6))
def test_members_differ_where_their_advantages_would(scores):
    group = summed(*(member(at, score=score) for at, score in enumerate(scores)))
    assert ("score" in group.varied) == bool(np.std(scores, ddof=1) >= EPSILON)
    assert group.rewards["score"] == pytest.approx(np.mean(scores))
