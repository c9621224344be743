"""What a run is to do: the task of a group and the demonstrations of a step are pure functions of their position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.config.sections import CheckpointSettings, EvaluationSettings, ScheduleSettings, Stage, StageName
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

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages, as long as its data make them."""
        return self.schedule.stages(len(self.demonstrations), self.tasks.count)

    def groups(self, stage: Stage) -> int | None:
        """Groups that a stage of epochs plays, each once; None where steps say how long a stage is."""
        epochs = self.schedule.grpo_epochs if stage.name == "grpo" else 0
        return epochs * self.tasks.count or None

    def group_task(self, stage: int, position: int) -> GroupTask:
        """What the group at a position of the schedule's stage with this index plays."""
        seed, schedule = self.seed + stage, self.schedule
        name = self.stages[stage].name
        draw = self.tasks.walk if name == "grpo" and schedule.grpo_epochs else self.tasks.at
        panel, task_id = draw(seed, position)
        return GroupTask(
            group_id=f"{name}-{position}",
            environment=panel.environment,
            task_id=task_id,
            seeds=member_seeds(seed, position, schedule.group_size),
            temperature=schedule.temperature.at(position // schedule.groups_per_step),
            split=panel.split,
        )

    def batch_rows(self, stage: StageName, step: int) -> list[int]:
        """The demonstrations of the step after `step` steps of the run, by row: a walk through all of them in a seeded
        order, which ends where the epochs of the SFT stage do."""
        rows, batch = self.demonstrations, self.schedule.sft_batch
        first, last = step * batch, (step + 1) * batch
        if stage == "sft" and self.schedule.sft_epochs:
            last = min(last, self.schedule.sft_epochs * len(rows))
        return [rows[index_at(len(rows), self.seed, position)] for position in range(first, last)]
