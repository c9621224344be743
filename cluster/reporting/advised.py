"""An evaluation with experience and without: one frozen snapshot, the same weights, tasks and seeds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from cluster.loop.ports import FinishedGroup, GroupTask, Rollouts
from cluster.reporting.evaluation import Evaluation
from experience.advice import Book


@dataclass(frozen=True, slots=True)
class AdvisedRollouts:
    """Rollouts whose prompts carry a book's advice, all of it, in every episode. Nothing is learned of them."""

    rollouts: Rollouts
    book: Book
    max_tokens: int

    def room(self, members: int) -> int:
        return self.rollouts.room(members)

    async def run_group(self, task: GroupTask) -> FinishedGroup:
        advice = self.book.advice(task.environment, task.task_id, self.max_tokens)
        return await self.rollouts.run_group(replace(task, advice=advice))


async def evaluate_advised(
    rollouts: Rollouts, book: Book | None, max_tokens: int, evaluate: Callable[[Rollouts], Awaitable[Evaluation]]
) -> Evaluation:
    """What `evaluate` finds. Where there is a book, with its advice, and beside it what is found without."""
    plain = await evaluate(rollouts)
    if book is None:
        return plain
    told = await evaluate(AdvisedRollouts(rollouts, book, max_tokens))
    beside = {"greedy_without": plain.greedy, "sampled_without": plain.sampled}
    return told.model_copy(update={**beside, "memory_snapshot": book.snapshot, "seconds": told.seconds + plain.seconds})
