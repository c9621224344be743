"""The task frontier: how a group closes, when it is taken, and that no position is ever lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.loop.checkpoint import PendingGroup, Played
from cluster.loop.coordinator import group_metrics
from cluster.loop.frontier import GroupFrontier
from cluster.loop.ports import FinishedGroup
from cluster.loop.staleness import StalenessGate

COMPARED = ("success",)


def frontier(batch: int = 1, max_staleness: int = 0, max_attempts: int = 2, max_skipped: int = 0) -> GroupFrontier:
    """Groups of two members or more; all may run at once, and no stage ends."""
    gate = StalenessGate(concurrency=9, max_staleness=max_staleness, batch=batch, total=99)
    return GroupFrontier(gate, 2, max_attempts, COMPARED, max_skipped)


def finished(members: int = 4, oldest_version: int = 0, varied: Sequence[str] = COMPARED) -> FinishedGroup:
    rewards = {"success": 0.5, "progress": 0.5}
    return FinishedGroup(
        environment="mock",
        members=members,
        successes=0,
        failed=4 - members,
        truncated=0,
        length_limited=0,
        oldest_version=oldest_version,
        turns=5 * members,
        rewards=rewards,
        varied=frozenset(varied),
        data=None,
    )


FLAT = finished(varied=())
"""A group whose members all did alike."""


def played(groups: int) -> dict[str, Played]:
    """What so many of them are together."""
    return {"mock": Played(episodes=4 * groups, turns=20 * groups)} if groups else {}


def test_success_counts_an_environment_whose_groups_were_all_skipped():
    groups = frontier()
    groups.batch_skipped_play = {"other": Played(episodes=4, successes=3, turns=20)}
    metrics = group_metrics([finished()], groups, version=0)
    assert {name: metrics[name] for name in ("success", "success/mock", "success/other")} == {
        "success": 3 / 8,
        "success/mock": 0.0,
        "success/other": 0.75,
    }


def test_staleness_is_told_as_a_share_of_the_groups_by_versions():
    groups = frontier(max_staleness=3)
    metrics = group_metrics([finished(oldest_version=version) for version in (5, 5, 4, 3)], groups, version=5)
    assert [metrics[f"staleness/{age}"] for age in range(4)] == [0.5, 0.25, 0.25, 0.0]
    assert metrics["staleness"] == 0.75 and "staleness/4" not in metrics


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
    with pytest.raises(AssertionError, match="0 positions are held, 1 were issued"):
        groups.check()


def test_a_position_in_two_places_instead_of_another_is_not_written_to_a_checkpoint():
    groups = frontier(batch=2, max_staleness=9)
    play(groups, finished())
    play(groups, finished())
    groups.ready.pop(1)
    groups.trained.append(0)
    groups.check()
    with pytest.raises(AssertionError, match=r"positions \[0, 0\] of 2 issued"):
        groups.snapshot()


def play(groups: GroupFrontier, group: FinishedGroup, step: int = 0) -> int:
    """Issue one group, and close it with this; its position."""
    position = groups.issue(step)
    assert position is not None, "the gate is shut"
    groups.close(position, group)
    return position


def test_without_dynamic_sampling_a_group_that_teaches_nothing_is_ready():
    groups = frontier()
    play(groups, FLAT)
    assert list(groups.ready) == [0] and groups.skipped == []


def test_a_group_that_teaches_nothing_is_skipped_and_another_takes_its_place():
    groups = frontier(batch=2, max_skipped=9)
    assert [play(groups, FLAT), play(groups, finished()), play(groups, FLAT)] == [0, 1, 2]
    assert groups.take(version=0) is None
    assert play(groups, finished()) == 3
    assert (groups.skipped, list(groups.take(version=0) or ())) == ([0, 2], [1, 3])
    assert (groups.gate.submitted, groups.gate.accepted, groups.gate.skipped) == (4, 2, 2)
    assert groups.batch_skipped_play == played(2), "what the batch cost beside its own groups"


def test_a_difference_in_a_reward_that_is_not_compared_teaches_nothing():
    groups = frontier(max_skipped=9)
    play(groups, finished(varied=["progress"]))
    assert groups.skipped == [0]


def test_a_reward_that_only_the_router_can_tell_may_differ():
    groups = frontier(max_skipped=9)
    groups.compared = ("success", "entropy")
    play(groups, FLAT)
    assert list(groups.ready) == [0]


def test_a_group_with_too_few_members_is_played_again_and_not_skipped():
    groups = frontier(max_skipped=9)
    play(groups, finished(members=1, varied=()))
    assert groups.skipped == [] and groups.pending == type(groups.pending)([PendingGroup(position=0, attempts=1)])


def test_beyond_the_cap_what_comes_is_accepted_and_the_next_batch_counts_anew():
    groups = frontier(batch=2, max_staleness=9, max_skipped=3)
    for step in range(3):
        for _ in range(3 + 2):
            play(groups, FLAT, step)
        assert groups.take(version=step) is not None
        assert (groups.batch_skipped_play, groups.skipped_play) == (played(3), {})
    assert (groups.skipped, groups.trained) == ([0, 1, 2, 5, 6, 7, 10, 11, 12], [3, 4, 8, 9, 13, 14])


def test_a_snapshot_keeps_what_was_skipped_and_how_much_since_the_last_batch():
    groups = frontier(batch=2, max_skipped=2)
    play(groups, FLAT)
    saved = groups.snapshot()
    assert (saved.skipped, saved.skips, saved.skipped_play) == ((0,), 1, played(1))
    again = frontier(batch=2, max_skipped=2)
    again.restore(saved, {})
    assert (again.gate.submitted, again.gate.skipped) == (1, 1)
    for _ in range(3):
        play(again, FLAT)
    assert (again.skipped, list(again.ready)) == ([0, 1], [2, 3]), "one was left of the cap"
    assert again.take(version=0) and again.batch_skipped_play == played(2)


def test_what_comes_when_a_batch_is_full_belongs_to_the_next_one_with_a_cap_of_its_own():
    groups = frontier(batch=2, max_staleness=1, max_skipped=2)
    for _ in range(2 * (2 + 2)):
        play(groups, FLAT)
    assert (groups.skipped, list(groups.ready)) == ([0, 1, 4, 5], [2, 3, 6, 7])


@dataclass
class History:
    """A frontier under any history, and beside it what must have become of every group, counted anew."""

    groups: GroupFrontier
    version: int = 0
    fates: dict[int, str] = field(default_factory=dict)
    skips: int = 0
    skipped: int = 0
    """Groups since the last batch."""

    def issue(self) -> None:
        position = self.groups.issue(self.version)
        if position is not None:
            assert self.fates.get(position, "pending") == "pending", "nothing that has ended is issued again"
            self.fates[position] = "running"

    def close(self, which: int, kind: str, age: int) -> None:
        running = sorted(self.groups.running)
        if not running:
            return
        position = running[which % len(running)]
        attempts = self.groups.running[position].attempts
        members, varied = (1 if kind == "failed" else 4), (COMPARED if kind == "informative" else ())
        self.groups.close(position, finished(members, max(0, self.version - age), varied))
        if kind == "failed":
            self.fates[position] = "pending" if attempts + 1 < self.groups.max_attempts else "filtered"
        elif kind == "flat" and self.skips < self.groups.max_skipped:
            self.fates[position] = "skipped"
            self.skips += 1
            self.skipped += 1
        else:
            self.fates[position] = "ready"
            ready = list(self.fates.values()).count("ready")
            self.skips = 0 if ready % self.groups.gate.batch == 0 else self.skips

    def step(self) -> None:
        for position, group in self.groups.ready.items():
            if group.oldest_version < self.version - self.groups.gate.max_staleness:
                self.fates[position] = "pending"
        if (batch := self.groups.take(self.version)) is not None:
            assert len(batch) == self.groups.gate.batch
            assert self.groups.batch_skipped_play == played(self.skipped)
            self.fates |= dict.fromkeys(batch, "trained")
            self.skipped = 0
            self.version += 1

    def restore(self) -> None:
        """Killed and resumed."""
        old, gate = self.groups, self.groups.gate
        fresh = StalenessGate(gate.concurrency, gate.max_staleness, gate.batch, gate.total)
        self.groups = GroupFrontier(fresh, old.min_group, old.max_attempts, old.compared, old.max_skipped)
        self.groups.restore(old.snapshot(), old.ready)
        self.fates = {at: "pending" if fate == "running" else fate for at, fate in self.fates.items()}

    def check(self) -> None:
        groups, gate = self.groups, self.groups.gate
        groups.check()
        assert gate.submitted == gate.accepted + gate.filtered + gate.skipped + gate.running
        assert gate.accepted + gate.running <= gate.total
        by_fate = {
            "pending": [group.position for group in groups.pending],
            "running": list(groups.running),
            "ready": list(groups.ready),
            "trained": groups.trained,
            "filtered": groups.filtered,
            "skipped": groups.skipped,
        }
        told = {position: fate for fate, positions in by_fate.items() for position in positions}
        assert told == self.fates and sorted(told) == list(range(groups.cursor))


EVENTS = st.one_of(
    st.just(("issue",)),
    st.tuples(
        st.just("close"), st.integers(0, 4), st.sampled_from(["informative", "flat", "failed"]), st.integers(0, 2)
    ),
    st.just(("step",)),
    st.just(("restore",)),
)


@given(
    st.lists(EVENTS, max_size=60), st.integers(0, 4), st.integers(0, 2), st.integers(1, 3), st.sampled_from([4, 12, 99])
)
def test_every_position_has_one_fate_and_a_step_always_ends_under_any_history(
    events, max_skipped, max_staleness, batch, total
):
    gate = StalenessGate(concurrency=5, max_staleness=max_staleness, batch=batch, total=total)
    history = History(GroupFrontier(gate, 2, 2, COMPARED, max_skipped))
    for name, *arguments in events:
        getattr(history, name)(*arguments)
        history.check()
    if len(history.groups.trained) + batch > total:
        return
    trained = len(history.groups.trained)
    for _ in range(gate.concurrency + max_skipped + batch * (max_staleness + 2)):  # the policy solves nothing any more
        history.issue()
        history.close(0, "flat", 0)
        history.check()
        history.step()
        if len(history.groups.trained) > trained:
            return
    raise AssertionError("no batch")
