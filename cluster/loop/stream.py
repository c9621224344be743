"""Finished groups as a stream: keeps the rollout actors busy up to the staleness gate and hands out whole batches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from cluster.loop.frontier import GroupFrontier
from cluster.loop.ports import FinishedGroup, GroupTask, Rollouts
from trajectories.errors import RunError


class GroupStream:
    """Runs the groups of one stage, each as its own asyncio task, with no barrier between them.

    A finished group makes room at once: the next one starts from its completion, also while the learner is busy.
    """

    def __init__(
        self, rollouts: Rollouts, frontier: GroupFrontier, task_of: Callable[[int], GroupTask], stage_step: int
    ) -> None:
        self.frontier = frontier
        self._rollouts = rollouts
        self._task_of = task_of
        self._stage_step = stage_step
        self._tasks: dict[int, asyncio.Task[FinishedGroup]] = {}
        self._changed = asyncio.Event()
        self._failure: BaseException | None = None
        self._fill()

    def advance(self, stage_step: int) -> None:
        """The learner has done `stage_step` steps of this stage, so more groups may start."""
        self._stage_step = stage_step
        self._fill()

    async def next_batch(self, version: int, timeout_s: float) -> dict[int, FinishedGroup]:
        """One batch of finished groups by position; none when the stage has no more.

        Raises RunError when no group is accepted or skipped for `timeout_s` seconds, and whatever a group's run or the
        frontier raised. Since the frontier skips so many groups a batch at most, the wait is bounded.
        """
        while True:
            if self._failure is not None:
                raise self._failure
            batch = self.frontier.take(version)
            self._fill()
            if batch is not None:
                return batch
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), timeout_s)
            except TimeoutError:
                raise RunError(
                    f"no group finished within {timeout_s:g} s while {len(self._tasks)} were running and "
                    f"{len(self.frontier.filtered)} had failed: look at the rollout actors' logs, or raise "
                    "schedule.group_timeout_s"
                ) from None

    async def close(self) -> None:
        """Cancel what runs; those groups stay in the frontier's `running` and are issued again on resume."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _fill(self) -> None:
        while (position := self.frontier.issue(self._stage_step)) is not None:
            task = asyncio.create_task(self._rollouts.run_group(self._task_of(position)), name=f"group {position}")
            self._tasks[position] = task
            task.add_done_callback(lambda done, position=position: self._finish(position, done))

    def _finish(self, position: int, task: asyncio.Task[FinishedGroup]) -> None:
        """Called by asyncio, which would only log what is raised here: `next_batch` must raise it."""
        del self._tasks[position]
        if task.cancelled():
            return
        try:
            finished = task.result()
            self.frontier.close(position, finished)
            self._fill()
        except BaseException as error:
            self._failure = self._failure or error
        else:
            if finished.members < self.frontier.min_group and not self.frontier.exhausted:
                return  # a group that failed is no progress: nobody waits longer for it
        self._changed.set()
