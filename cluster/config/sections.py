"""The run's own settings: what is played, in which stages, where the actors go, what is evaluated and kept.

The settings of prompts, rollouts and learners stand in their packages; `cluster.config.run.RunSettings` puts all
together.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from trajectories.settings import Settings

StageName = Literal["sft", "mixed", "grpo"]


class Stage(Settings):
    """One stretch of the run with one kind of learner step."""

    name: StageName
    steps: PositiveInt

    @property
    def plays(self) -> bool:
        """Needs rollouts."""
        return self.name != "sft"

    @property
    def demonstrates(self) -> bool:
        """Needs demonstrations."""
        return self.name != "grpo"


class ScheduleSettings(Settings):
    """The stages, in the order SFT, mixed, GRPO, and the groups of rollouts that feed them. 0 steps: no stage."""

    sft_steps: int = Field(default=0, ge=0)
    """Learner steps on expert demonstrations."""
    mixed_steps: int = Field(default=0, ge=0)
    """Learner steps on demonstrations and rollouts at once."""
    grpo_steps: int = Field(default=100, ge=0)
    """Learner steps on rollouts."""
    demonstrations: PositiveInt = 256
    """Training tasks whose expert demonstration is used, of all environments together. More is better until they no
    longer fit the object store."""
    demonstrations_file: str | None = None
    """Recorded demonstrations, made by `concerto data import`: all of them, instead of the experts' own."""
    sft_batch: PositiveInt = 16
    """Sequences of demonstrations per learner step: whole ones, or single turns with windowed prompts."""
    groups_per_step: PositiveInt = 8
    """Groups per learner step. More makes steps steadier and slower."""
    group_size: int = Field(default=8, ge=2)
    """Episodes of one task that are compared with each other."""
    min_group: int = Field(default=2, ge=2)
    """Members that a group needs in spite of failed episodes; below, its task is played again."""
    max_attempts: PositiveInt = 2
    """How often such a task is played before it is given up."""
    max_staleness: int = Field(default=1, ge=0)
    """Learner steps by which training data may be older than the weights; 0 waits for every batch, 1 overlaps."""
    temperature: PositiveFloat = 1.0
    """Temperature of sampling in training rollouts."""
    group_timeout_s: PositiveFloat = 900.0
    """Seconds without a group of `min_group` members or more after which the run stops."""
    parity_tolerance: PositiveFloat = 1e-3
    """Greatest difference between engine and learner log-probabilities after a publication; 0.05 suits bfloat16."""

    @model_validator(mode="after")
    def _a_group_can_be_accepted(self) -> ScheduleSettings:
        if self.min_group > self.group_size:
            raise ValueError(
                f"min_group {self.min_group} is more than group_size {self.group_size}: no group can have it"
            )
        return self

    @property
    def plays(self) -> bool:
        """Some stage needs rollouts."""
        return any(stage.plays for stage in self.stages)

    @property
    def demonstrates(self) -> bool:
        """Some stage needs demonstrations."""
        return any(stage.demonstrates for stage in self.stages)

    @property
    def stages(self) -> tuple[Stage, ...]:
        steps: dict[StageName, int] = {"sft": self.sft_steps, "mixed": self.mixed_steps, "grpo": self.grpo_steps}
        return tuple(Stage(name=name, steps=count) for name, count in steps.items() if count)


class EvaluationSettings(Settings):
    """Evaluation of whole panels."""

    panels: tuple[str, ...] | None = None
    """Panels such as alfworld/valid_seen; [] leaves evaluation out. None: the held-out panel of each environment."""
    limit: PositiveInt | None = None
    """Only the first so many tasks of each panel."""
    temperature: float = Field(default=0.0, ge=0)
    """Temperature of sampling; 0 is greedy."""
    stages: bool = True
    """Before training and after every stage; otherwise after the last one only."""
    every: int = Field(default=0, ge=0)
    """Learner steps after which panels are played within a stage too; 0 for never."""


class CheckpointSettings(Settings):
    """What a run keeps."""

    every: PositiveInt = 1
    """Learner steps between checkpoints."""
    keep: PositiveInt = 2
    """Newest checkpoints that stay."""


class PlacementSettings(Settings):
    """Actors and what each demands of the cluster. CPUs and GPUs may be fractions; two halves share one."""

    address: str | None = None
    """Ray cluster to join: `auto`, `host:port`; none starts a private one on this machine."""
    rollout_actors: PositiveInt = 1
    rollout_cpus: float = Field(default=1.0, ge=0)
    rollout_gpus: float = Field(default=0.0, ge=0, le=1)
    """GPUs of a rollout actor, whose engine runs on one or a part of one."""
    environment_hosts: PositiveInt = 1
    """Processes that hold environments, shared by all rollout actors."""
    environment_cpus: float = Field(default=0.25, ge=0)
    learner_workers: PositiveInt = 1
    learner_cpus: float = Field(default=0.5, ge=0)
    learner_gpus: float = Field(default=0.0, ge=0)
    wait_s: float = Field(default=60.0, ge=0)
    """Seconds to wait for resources before giving up."""
    start_timeout_s: PositiveFloat = 600.0
    """Seconds that engines and learner workers may take to start."""
