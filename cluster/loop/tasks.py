"""Which task is played next: a fixed, seeded order over a panel, so that a resumed run goes on where it stopped."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache

from envs.panels import Panel

DRAWS = 2**31


@lru_cache(maxsize=8)
def _epoch_order(size: int, seed: int, epoch: int) -> tuple[int, ...]:
    order = list(range(size))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return tuple(order)


def index_at(size: int, seed: int, position: int) -> int:
    """The index in [0, size) at `position` (from 0, without end) of a seeded walk: each epoch is a new permutation.

    Depends on nothing but its arguments, so the position is all that a checkpoint must keep.
    """
    epoch, offset = divmod(position, size)
    return _epoch_order(size, seed, epoch)[offset]


def member_seeds(seed: int, position: int, group_size: int) -> tuple[int, ...]:
    """One sampling seed for each member of the group at `position`."""
    draw = random.Random(f"{seed}/members/{position}")
    return tuple(draw.randrange(DRAWS) for _ in range(group_size))


@dataclass(frozen=True, slots=True)
class TaskMixture:
    """Panels to train on in equal shares: every len(panels) positions draw each panel once, in a seeded order."""

    panels: tuple[Panel, ...]

    @property
    def count(self) -> int:
        """Tasks in all panels."""
        return sum(len(panel.task_ids) for panel in self.panels)

    def walk(self, seed: int, position: int) -> tuple[Panel, str]:
        """The panel and the task at `position` of a seeded walk through all tasks: each epoch has each of them once."""
        index = index_at(self.count, seed, position)
        for panel in self.panels:
            if index < len(panel.task_ids):
                return panel, panel.task_ids[index]
            index -= len(panel.task_ids)
        raise AssertionError("a walk stays within its tasks")

    def at(self, seed: int, position: int) -> tuple[Panel, str]:
        """The panel and the task at `position`; within a panel tasks come in their own seeded walk (`index_at`)."""
        panel = self.panels[index_at(len(self.panels), seed, position)]
        return panel, panel.task_ids[index_at(len(panel.task_ids), seed, position // len(self.panels))]
