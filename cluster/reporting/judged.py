"""An evaluation whose answers to questions are graded by a judge as well."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from cluster.loop.ports import FinishedGroup, GroupTask, Rollouts


class Evaluator(Protocol):
    """Grades the answers of whole groups."""

    async def of_group(self, group: Any) -> dict[str, float]:
        """`judge`, the mean score in [0, 1], and `judge_unanswered`, the share of answers without one."""
        ...


@dataclass(frozen=True, slots=True)
class JudgedRollouts:
    """Rollouts whose groups of questions have the rewards `judge` and `judge_unanswered` on top.

    Attributes:
        look: is told these rewards of each group.
    """

    rollouts: Rollouts
    evaluator: Evaluator
    look: Callable[[Mapping[str, float]], Awaitable[None]]

    def room(self, members: int) -> int:
        return self.rollouts.room(members)

    async def run_group(self, task: GroupTask) -> FinishedGroup:
        group = await self.rollouts.run_group(task)
        if task.environment != "questions" or not group.members:
            return group
        judged = await self.evaluator.of_group(group.data)
        await self.look(judged)
        return replace(group, rewards={**group.rewards, **judged})
