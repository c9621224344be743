"""What a run is to do: the task of a group and the demonstrations of a step are pure functions of their position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.config.sections import CheckpointSettings, EvaluationSettings, ScheduleSettings
from cluster.loop.ports import GroupTask
from cluster.loop.tasks import TaskMixture, index_at, member_seeds


@dataclass(frozen=True, slots=True)
class Programme:
    """All that decides what is trained, evaluated and kept.

    Attributes:
        seed: seed of every order and of sampling.
        tasks: tasks to train on.
        demonstrations: the learner's rows that may be imitated.
        compared: the rewards that advantages are made of.
    """

    seed: int
    tasks: TaskMixture
    demonstrations: Sequence[int]
    compared: tuple[str, ...]
    schedule: ScheduleSettings
    evaluation: EvaluationSettings
    checkpoint: CheckpointSettings

    def group_task(self, stage: int, position: int) -> GroupTask:
        """What the group at a position of the schedule's stage with this index plays."""
        seed, schedule = self.seed + stage, self.schedule
        panel, task_id = self.tasks.at(seed, position)
        return GroupTask(
            group_id=f"{schedule.stages[stage].name}-{position}",
            environment=panel.environment,
            task_id=task_id,
            seeds=member_seeds(seed, position, schedule.group_size),
            temperature=schedule.temperature.at(position // schedule.groups_per_step),
            split=panel.split,
        )

    def batch_rows(self, step: int) -> list[int]:
        """The demonstrations of the step after `step` steps, by row: a walk through all of them in a seeded order."""
        first, count, rows = step * self.schedule.sft_batch, self.schedule.sft_batch, self.demonstrations
        return [rows[index_at(len(rows), self.seed, first + offset)] for offset in range(count)]
