"""The stream of finished groups: what breaks where nobody waits for it ends the wait for the next batch."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from cluster.loop.frontier import GroupFrontier
from cluster.loop.ports import FinishedGroup, GroupTask
from cluster.loop.staleness import StalenessGate
from cluster.loop.stream import GroupStream
from tests.cluster.simulation import SimulatedRollouts


class BrokenFrontier(GroupFrontier):
    def close(self, position: int, finished: FinishedGroup) -> None:
        raise AssertionError(f"position {position} was lost")


def task(position: int) -> GroupTask:
    return GroupTask(f"g-{position}", "mock", f"task-{position}", (0, 1), 1.0, "train")


def gate(concurrency: int = 1) -> StalenessGate:
    return StalenessGate(concurrency, max_staleness=0, batch=2, total=2)


async def test_a_frontier_that_does_not_add_up_ends_the_wait_at_once_with_its_own_words():
    stream = GroupStream(SimulatedRollouts(), BrokenFrontier(gate(), 2, 1), task, 0)
    with pytest.raises(AssertionError, match="position 0 was lost"):
        await asyncio.wait_for(stream.next_batch(0, timeout_s=60), 5)
    await stream.close()


async def test_a_group_that_cannot_be_started_after_another_ends_the_wait_at_once_with_its_own_words():
    def only_the_first(position: int) -> GroupTask:
        if position:
            raise LookupError(f"no task at position {position}")
        return task(position)

    stream = GroupStream(SimulatedRollouts(), GroupFrontier(gate(), 2, 1), only_the_first, 0)
    with pytest.raises(LookupError, match="no task at position 1"):
        await asyncio.wait_for(stream.next_batch(0, timeout_s=60), 5)
    await stream.close()


async def test_a_group_that_is_skipped_is_progress_for_those_who_wait():
    """All six groups together take longer than the wait for one may; the sixth is the first that is accepted."""

    class SlowRollouts(SimulatedRollouts):
        async def run_group(self, task: GroupTask) -> FinishedGroup:
            await asyncio.sleep(0.2)
            return await super().run_group(replace(task, seeds=(1, 1)))

    one = StalenessGate(concurrency=1, max_staleness=0, batch=1, total=1)
    stream = GroupStream(SlowRollouts(), GroupFrontier(one, 2, 1, ("success",), max_skipped=5), task, 0)
    assert list(await stream.next_batch(0, timeout_s=0.8)) == [5]
    await stream.close()


async def test_the_first_failure_is_the_one_that_is_told():
    stream = GroupStream(SimulatedRollouts(), BrokenFrontier(gate(concurrency=2), 2, 1), task, 0)
    await asyncio.sleep(0.05)
    with pytest.raises(AssertionError) as first:
        await stream.next_batch(0, timeout_s=60)
    with pytest.raises(AssertionError) as again:
        await stream.next_batch(0, timeout_s=60)
    assert first.value is again.value
    await stream.close()
