"""Many groups at once, outside the stream that the learner trains on: evaluations, and routing before training."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:  # it brings torch, and who reads results needs none of it
    from cluster.loop.ports import FinishedGroup, GroupTask, Rollouts

Result = TypeVar("Result")


async def play_all(
    rollouts: Rollouts, tasks: Sequence[GroupTask], keep: Callable[[GroupTask, FinishedGroup], Result]
) -> list[Result]:
    """Play groups of one size, as many at a time as the actors hold.

    Args:
        keep: called as each group ends; what it gives is all that stays of the group.
    Returns:
        What `keep` gave, in the order of the tasks.
    Raises:
        Exception: the first that a group raises; the others are cancelled for it.
    """
    if not tasks:
        return []
    free = asyncio.Semaphore(rollouts.room(len(tasks[0].seeds)))

    async def play(task: GroupTask) -> Result:
        async with free:
            return keep(task, await rollouts.run_group(task))

    try:
        async with asyncio.TaskGroup() as together:
            running = [together.create_task(play(task)) for task in tasks]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in running]
