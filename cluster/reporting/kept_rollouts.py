"""An evaluation's groups on disk as they come, so that what was played outlives whatever ends the evaluation."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from cluster.loop.ports import FinishedGroup, GroupTask, Rollouts
from trajectories.files import storing


@dataclass(frozen=True, slots=True)
class KeptRollouts:
    """Rollouts that append a line of JSON to `path` for every group that they have played."""

    rollouts: Rollouts
    path: Path

    def room(self, members: int) -> int:
        return self.rollouts.room(members)

    async def run_group(self, task: GroupTask) -> FinishedGroup:
        """Raises StorageError when the group cannot be written down."""
        group = await self.rollouts.run_group(task)
        line = {
            "task_id": task.task_id,
            "temperature": task.temperature,
            "successes": group.successes,
            "episodes": group.members + group.failed,
            "rewards": dict(group.rewards),
            "turns": group.turns,
            "failed": group.failed,
        }
        if task.advice is not None:
            line["memory_snapshot"] = task.advice.snapshot
        with storing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        return group
