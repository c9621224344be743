"""The run's own settings: what is played, in which stages, where the actors go, what is evaluated and kept.

The settings of prompts, rollouts and learners stand in their packages; `cluster.config.run.RunSettings` puts all
together.
"""

from __future__ import annotations

import os
from typing import Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from actors.engine import HIGHEST_TEMPERATURE, LOWEST_TEMPERATURE
from envs.alfworld.settings import AlfworldSettings
from envs.webshop.settings import WebShopSettings
from learners.learner_settings import RampSettings
from learners.rewards.reward_settings import JudgeSettings
from trajectories.settings import Settings

StageName = Literal["sft", "mixed", "grpo"]
DemonstrationsKind = Literal["plain", "slips"]


class Stage(Settings):
    """One stretch of the run with one kind of learner step."""

    name: StageName
    steps: PositiveInt

    @property
    def plays(self) -> bool:
        """Whether the stage needs rollouts."""
        return self.name != "sft"

    @property
    def demonstrates(self) -> bool:
        """Whether the stage needs demonstrations."""
        return self.name != "grpo"


class EnvironmentsSettings(Settings):
    """Options of the environments that have some."""

    alfworld: AlfworldSettings = AlfworldSettings()
    webshop: WebShopSettings = WebShopSettings()


class TemperatureSettings(RampSettings):
    """Temperature of sampling in training rollouts: linear from `start` to `end` over `steps` steps of the stage, `end`
    afterwards. A plain number, as in `schedule.temperature=0.8`, holds for all steps. Groups are counted as they start,
    `schedule.groups_per_step` a step. From 0.01 to 2: the engine raises what is lower, while the learner would divide
    by what was asked, and refuses what is higher."""

    start: float = Field(default=1.0, ge=LOWEST_TEMPERATURE, le=HIGHEST_TEMPERATURE)
    """Temperature of the first step's groups. Tuning: 1.0; a little more where members of a group hardly differ."""
    end: float = Field(default=1.0, ge=LOWEST_TEMPERATURE, le=HIGHEST_TEMPERATURE)
    """Temperature from step number `steps` on. Tuning: 1.0, since losses expect samples of the policy itself; less
    explores less."""
    steps: int = Field(default=0, ge=0)
    """Steps over which the temperature moves. Tuning: those of the stage; 0 takes `end` at once."""

    @model_validator(mode="before")
    @classmethod
    def _a_number_holds_for_all_steps(cls, value: Any) -> Any:
        return {"start": value, "end": value} if isinstance(value, (int, float, str)) else value


class ScheduleSettings(Settings):
    """The stages, in the order SFT, mixed, GRPO, and the groups of rollouts that feed them. 0 steps: no stage."""

    sft_epochs: int = Field(default=0, ge=0)
    """In place of sft_steps: times that the SFT stage walks through the demonstrations, with a staged router through
    those that it sends to SFT. Its last step takes what is left. Tuning: 2 to 5; methods that route compare at the same
    epochs, not steps, since half of the data are half of the work."""
    grpo_epochs: int = Field(default=0, ge=0)
    """In place of grpo_steps: times that the GRPO stage plays each task, with a staged router each of those that it
    sends to GRPO. What dynamic sampling skips counts as played, and nothing is played in its place. Tuning: as
    sft_epochs."""
    sft_steps: int = Field(default=0, ge=0)
    """Learner steps on expert demonstrations. Tuning: until the loss on them levels off, some two passes over the
    demonstrations."""
    mixed_steps: int = Field(default=0, ge=0)
    """Learner steps on demonstrations and rollouts at once. Tuning: needed by CHORD and by online routing; else 0."""
    grpo_steps: int = Field(default=100, ge=0)
    """Learner steps on rollouts. Tuning: as many as the evaluated success keeps rising."""
    demonstrations: PositiveInt = 256
    """Training tasks whose expert demonstration is used, of all environments together. Tuning: more is better until
    they no longer fit the object store."""
    demonstrations_file: str | None = None
    """File of recorded demonstrations, made by `concerto data import`: all of them, instead of the experts' own.
    Tuning: for environments whose own expert is weaker than the recorded one."""
    demonstrations_kind: DemonstrationsKind = "plain"
    """`plain`: the expert makes no mistake. `slips`: now and then it does what the environment refuses, up to four
    times in a row, and goes on; that is read, and only what follows is trained. Tuning: slips where a model that
    slipped once is lost, as a low action_validity shows; they make demonstrations a fifth longer in turns."""
    sft_batch: PositiveInt = 16
    """Sequences of demonstrations per learner step: whole ones, or single turns with windowed prompts. Tuning: 16 to
    64; with windowed prompts, that times the turns of an episode."""
    groups_per_step: PositiveInt = 8
    """Groups per learner step. Tuning: more makes steps steadier and slower."""
    group_size: int = Field(default=8, ge=2)
    """Episodes of one task that are compared with each other. Tuning: 8 to 16; more finds rare successes and costs as
    many episodes."""
    min_group: int = Field(default=2, ge=2)
    """Members that a group needs in spite of failed episodes; below, its task is played again. Tuning: half of
    group_size where environments fail often."""
    max_attempts: PositiveInt = 2
    """Times that such a task is played before it is given up. Tuning: raise it for environments that fail now and
    then."""
    dynamic_sampling: bool = False
    """In the GRPO stage, skip groups whose members do not differ in the rewards that advantages are made of, and play
    others in their place, until a batch is full of groups that teach something (DAPO). What single turns earn is not
    looked at. Mixed stages skip nothing: what they play may be imitated. Tuning: on where `informative_groups` is low;
    `skipped_turns` tells what it costs."""
    max_skipped: PositiveInt = 32
    """Groups that dynamic sampling skips for one batch; after that it takes what comes, so that a step always ends.
    Tuning: two to four times groups_per_step; less where hardly anything is solved yet."""
    max_idle: PositiveInt = 10
    """Steps in a row without a trained token after which the run stops. The first such step is told, with its reason.
    Tuning: more where success is so rare that groups that differ come far apart."""
    max_staleness: int = Field(default=1, ge=0)
    """Learner steps by which training data may be older than the weights; 0 waits for every batch, 1 overlaps. Tuning:
    1, unless a method must be strictly on-policy."""
    temperature: TemperatureSettings = TemperatureSettings()
    """Temperature of sampling in training rollouts."""
    group_timeout_s: PositiveFloat = 900.0
    """Seconds without a group of `min_group` members or more after which the run stops. Tuning: several times the
    seconds that an episode takes."""
    parity_tolerance: PositiveFloat | None = None
    """Nats by which the log-probabilities of engine and learner may differ after a publication, at the 99th percentile
    of tokens; above it the run ends. Null: 1e-3 in float32; in bfloat16 four times what the first publication showed,
    0.05 at least, beyond which the run is warned and goes on. Tuning: leave it."""

    @field_validator("demonstrations_file")
    @classmethod
    def _at_home(cls, file: str | None) -> str | None:
        return os.path.expanduser(file) if file else file

    @model_validator(mode="after")
    def _a_group_can_be_accepted(self) -> ScheduleSettings:
        if self.min_group > self.group_size:
            raise ValueError(
                f"min_group {self.min_group} is more than group_size {self.group_size}: no group can have it"
            )
        return self

    @model_validator(mode="after")
    def _recorded_demonstrations_are_taken_as_they_are(self) -> ScheduleSettings:
        if self.demonstrations_file and self.demonstrations_kind != "plain":
            raise ValueError(
                f"demonstrations_kind={self.demonstrations_kind} is for what the environments' own experts play, and "
                "demonstrations_file replaces that: leave one of them out"
            )
        return self

    @model_validator(mode="after")
    def _a_stage_is_as_long_as_one_number_says(self) -> ScheduleSettings:
        for name, steps, epochs in (
            ("sft", self.sft_steps, self.sft_epochs),
            ("grpo", self.grpo_steps, self.grpo_epochs),
        ):
            if steps and epochs:
                raise ValueError(
                    f"{name}_steps={steps} and {name}_epochs={epochs} both say how long the stage is: set one of them "
                    "to 0"
                )
        return self

    @property
    def plays(self) -> bool:
        """Some stage needs rollouts."""
        return any(stage.plays for stage in self.stages(1, 1))

    @property
    def demonstrates(self) -> bool:
        """Some stage needs demonstrations."""
        return any(stage.demonstrates for stage in self.stages(1, 1))

    def stages(self, demonstrations: int, tasks: int) -> tuple[Stage, ...]:
        """The stages of a run that imitates so many sequences and explores so many tasks. One of epochs has the steps
        that it takes when no group is skipped or given up."""
        sft, grpo = self.sft_epochs * demonstrations, self.grpo_epochs * tasks
        steps: dict[StageName, int] = {
            "sft": self.sft_steps or -(-sft // self.sft_batch),
            "mixed": self.mixed_steps,
            "grpo": self.grpo_steps or -(-grpo // self.groups_per_step),
        }
        return tuple(Stage(name=name, steps=count) for name, count in steps.items() if count)


class EvaluationSettings(Settings):
    """Evaluation of whole panels."""

    panels: tuple[str, ...] | None = None
    """Panels such as alfworld/valid_seen; [] leaves evaluation out. Null: the held-out panel of each environment.
    Tuning: all panels that results will be reported on, and no training panel."""
    limit: PositiveInt | None = None
    """Tasks of each panel that are played, from the first on; null: all. Tuning: 200 to watch a run, which is all of
    ALFWorld's embedded held-out games and a fifth of WebShop's dev goals; whole panels for results."""
    samples: int = Field(default=0, ge=0)
    """Episodes of every task that are sampled, at the temperature that schedule.temperature ends with, beside the
    greedy one. Tuning: 4 where RL is to be watched, since it moves sampled success first; each takes as long as the
    greedy pass. 0 where only SFT is."""
    max_turns: PositiveInt | None = None
    """Actions of an episode; null: rollout.max_turns, as in training. Tuning: what the results you compare with
    used, where training cuts episodes off earlier to save time."""
    stages: bool = True
    """Play before training and after every stage; otherwise after the last one only. Tuning: leave it on, unless panels
    take longer than training."""
    every: int = Field(default=0, ge=0)
    """Learner steps after which panels are played within a stage too; 0 for never. Tuning: ten evaluations in a
    run give a curve."""
    judge: JudgeSettings = JudgeSettings()


class CheckpointSettings(Settings):
    """What a run keeps."""

    every: PositiveInt = 1
    """Learner steps between checkpoints. Tuning: writing one (`checkpoint_s`) should take a small
    share of the time between two; 7 billion weights with their moments are 84 GB."""
    keep: PositiveInt = 2
    """Newest checkpoints that stay. Tuning: 2, so that one is whole whatever happens; each takes the weights and twice
    as much for AdamW."""


class TrackingSettings(Settings):
    """Services that a run's metrics go to beside its own files. Their clients find servers and keys in variables of
    their own (WANDB_API_KEY, WANDB_BASE_URL, WANDB_MODE; MLFLOW_TRACKING_URI), so that none stands here."""

    wandb: str | None = None
    """Project in Weights & Biases; null: none. Needs `pip install wandb`. Tuning: one for runs that are compared."""
    mlflow: str | None = None
    """Experiment of MLflow; null: none. Needs `pip install mlflow-skinny`, or `mlflow`. Tuning: as for `wandb`."""


class PlacementSettings(Settings):
    """Actors and what each demands of the cluster. CPUs and GPUs may be fractions; two halves share one."""

    address: str | None = None
    """Ray cluster to join: `auto`, `host:port`; null starts a private one on this machine. Tuning: `auto` within `ray
    job submit`."""
    inline: bool = False
    """All actors in this process, one after the other and without Ray, so that a breakpoint anywhere stops the run; the
    engine's core alone has a process of its own. Tuning: to debug, by `--preset inline`."""
    rollout_actors: PositiveInt = 1
    """Rollout actors, each with an engine of its own. Tuning: until playing a batch takes no longer than a learner
    step."""
    rollout_cpus: float = Field(default=1.0, ge=0)
    """CPUs of a rollout actor. Tuning: 1 on a CPU, 4 beside a GPU."""
    rollout_gpus: float = Field(default=0.0, ge=0)
    """GPUs of a rollout actor: a part of one, or a whole number of one node. Over several its one engine spreads every
    layer (tensor parallel). Tuning: 0.5 where a learner shares the GPU, with rollout.engine.gpu_memory_utilization
    about 0.4; else 1, and more only where the model does not fit one, as `concerto plan` tells."""
    environment_hosts: PositiveInt = 1
    """Processes that hold environments, shared by all rollout actors. Tuning: until waiting for environments is a small
    share of an episode's seconds."""
    environment_cpus: float = Field(default=0.25, ge=0)
    """CPUs of an environment process. Tuning: 1 where there are many; a fraction on one machine."""
    learner_workers: PositiveInt = 1
    """Learner workers; the policy and its batches are sharded over them. Tuning: until weights, gradients and AdamW's
    state fit."""
    learner_cpus: float = Field(default=0.5, ge=0)
    """CPUs of a learner worker. Tuning: 4 beside a GPU."""
    learner_gpus: float = Field(default=0.0, ge=0)
    """GPUs of a learner worker. Tuning: 0.5 where an engine shares the GPU; else 1."""
    preference_replicas: PositiveInt = 1
    """Copies of reward.preference_model, each in an actor of its own; they share the batches. Tuning: until
    `preference_s` is a small share of a step."""
    preference_cpus: float = Field(default=0.25, ge=0)
    """CPUs of such an actor. Tuning: 1 or more where it computes on them; a fraction on one machine or beside a GPU."""
    preference_gpus: float = Field(default=0.0, ge=0, le=1)
    """GPUs of such an actor; 0: it runs on the CPU. Tuning: 1 for a model of billions of weights; a fraction where it
    shares the GPU with an engine or a learner worker whose own fraction leaves it that much."""
    gpu_gib: PositiveFloat = 80.0
    """Memory of one GPU in GiB, with which `concerto plan` compares its memory plan; nothing else reads it. Tuning: 24,
    40, 80 or 140, as the cards have it."""
    wait_s: float = Field(default=60.0, ge=0)
    """Seconds to wait for resources before giving up. Tuning: minutes on a cluster that starts nodes on demand."""
    start_timeout_s: PositiveFloat = 600.0
    """Seconds that engines and learner workers may take to start. Tuning: raise it for large checkpoints on slow
    disks."""

    @model_validator(mode="after")
    def _one_process_is_no_cluster(self) -> PlacementSettings:
        if self.inline and (self.address is not None or self.learner_workers > 1):
            raise ValueError("inline is one process: leave out address, and set learner_workers=1")
        return self

    @field_validator("rollout_gpus")
    @classmethod
    def _a_share_or_whole_gpus(cls, gpus: float) -> float:
        if gpus > 1 and not gpus.is_integer():
            raise ValueError(f"take a share of one GPU, up to 1, or a whole number, as {int(gpus)} or {int(gpus) + 1}")
        return gpus
