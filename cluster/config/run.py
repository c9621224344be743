"""`RunSettings`: all sections of a run put together, and the checks that span several of them."""

from __future__ import annotations

import os
from typing import Any

from pydantic import Field, field_validator, model_validator

from actors.engine import AdapterSettings
from actors.rollout_group import RolloutSettings
from cluster.config.sections import (
    CheckpointSettings,
    EnvironmentsSettings,
    EvaluationSettings,
    PlacementSettings,
    ScheduleSettings,
    TrackingSettings,
)
from envs import ENVIRONMENTS, EnvironmentSettings, is_known
from experience.experience_settings import ExperienceSettings
from learners.learner_settings import GRPOSettings, LearnerSettings, OptimizerSettings, PolicySettings, SFTSettings
from learners.rewards.reward_settings import RewardSettings
from router.router_settings import RouterSettings
from trajectories.errors import did_you_mean
from trajectories.settings import Settings


class RunSettings(Settings):
    """All of a run. `concerto train --set section.key=value` changes any of it."""

    seed: int = 0
    """Seed of task order, sampling and learner. Tuning: differences between methods mean something over three seeds or
    more."""
    tasks: tuple[str, ...] = Field(default=("alfworld",), min_length=1)
    """What to train on, in equal shares: environments, as in [alfworld, webshop], or panels, as in [alfworld/train];
    one of your own by its module, as in [my_package.my_environment]. Tuning: an environment's own name gives its
    training panel."""
    data: dict[str, str] = Field(default_factory=dict)
    """Path of an environment's data, as in data.webshop=DIR; without one, what is installed or embedded is played.
    Tuning: `concerto data alfworld` and `concerto data webshop` install the official data, which no path need name
    then."""
    environments: EnvironmentsSettings = EnvironmentsSettings()
    policy: PolicySettings
    learner: OptimizerSettings = OptimizerSettings()
    sft: SFTSettings = SFTSettings()
    grpo: GRPOSettings = GRPOSettings()
    reward: RewardSettings = RewardSettings()
    router: RouterSettings = RouterSettings()
    rollout: RolloutSettings = RolloutSettings()
    experience: ExperienceSettings = ExperienceSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    tracking: TrackingSettings = TrackingSettings()
    placement: PlacementSettings = PlacementSettings()

    def opening(self, name: str) -> tuple[str | None, EnvironmentSettings | None]:
        """Data and options of the environment of `name`, an environment or a panel: what `envs.make_environment` and
        `envs.load_panel` take behind the name."""
        environment = name.partition("/")[0]
        return self.data.get(environment), getattr(self.environments, environment, None)

    @property
    def fitted_rollout(self) -> RolloutSettings:
        """`rollout`, with what follows from the policy, precision and room for its adapters, from the GPUs of an
        engine, and from who makes experience."""
        engine, lora = self.rollout.engine, self.policy.lora
        changes: dict[str, Any] = {}
        if engine.dtype == "auto":
            changes["dtype"] = self.policy.dtype
        if lora is not None and engine.lora is None:
            changes["lora"] = AdapterSettings(max_rank=lora.rank, target_modules=lora.target_modules)
        if self.placement.rollout_gpus > 1:
            changes["tensor_parallel"] = int(self.placement.rollout_gpus)
        if self.experience.by_policy:
            changes["structured_outputs"] = True
        return self.rollout.model_copy(update={"engine": engine.model_copy(update=changes)})

    @property
    def contexts_ahead(self) -> bool:
        """The Conductor's contexts are read before a batch trains, not in the passes that train it."""
        grpo = self.grpo
        read_anyway = grpo.proximal == "batch" and grpo.minibatches * grpo.epochs > 1
        return read_anyway or self.reward.conductor.context_pass == "own"

    def learner_settings(self, model: str) -> LearnerSettings:
        """What each learner worker needs; `model` is the folder or hub name that `policy.model` stands for."""
        return LearnerSettings(
            policy=self.policy.model_copy(update={"model": model}),
            optimizer=self.learner,
            sft=self.sft,
            grpo=self.grpo,
            seed=self.seed,
        )

    @property
    def eval_turns(self) -> int:
        """Turns after which an episode of an evaluation is cut off."""
        return self.evaluation.max_turns or self.rollout.max_turns

    @field_validator("tasks", mode="before")
    @classmethod
    def _one_or_several(cls, tasks: Any) -> Any:
        return (tasks,) if isinstance(tasks, str) else tasks

    @field_validator("data")
    @classmethod
    def _at_home(cls, data: dict[str, str]) -> dict[str, str]:
        return {environment: os.path.expanduser(path) for environment, path in data.items()}

    @field_validator("tasks", "data")
    @classmethod
    def _known_environments(cls, names: Any) -> Any:
        for name in names:
            environment = name.partition("/")[0]
            if not is_known(environment):
                known = ", ".join(ENVIRONMENTS)
                hint = did_you_mean(environment, ENVIRONMENTS)
                raise ValueError(f"unknown environment {environment!r}: choose one of {known}.{hint}")
        if len(set(names)) < len(names):
            raise ValueError("each environment or panel can be named once; shares are equal")
        return names

    @model_validator(mode="after")
    def _experience_leaves_room(self) -> RunSettings:
        block, response = self.experience.max_tokens, self.rollout.max_response_tokens
        if self.experience.enabled and block + response >= (context := self.rollout.engine.max_model_len):
            raise ValueError(
                f"experience.max_tokens {block} and rollout.max_response_tokens {response} leave no room for a prompt "
                f"within rollout.engine.max_model_len {context}: lower one of them, or raise that"
            )
        return self

    @model_validator(mode="after")
    def _a_program_is_not_told(self) -> RunSettings:
        if self.experience.enabled and self.rollout.program.command:
            raise ValueError(
                "rollout.program.command names a program that writes its own prompts, so experience would be told to "
                "nobody: leave experience.enabled at false"
            )
        return self

    @model_validator(mode="after")
    def _one_process_waits_for_no_rater(self) -> RunSettings:
        if self.placement.inline and (self.reward.preference_model or self.reward.judge.active):
            raise ValueError(
                "placement.inline is one process, which cannot wait for an answer while it makes rewards: leave out "
                "reward.preference_model and reward.judge"
            )
        return self

    @model_validator(mode="after")
    def _each_worker_of_an_engine_has_a_gpu(self) -> RunSettings:
        workers, gpus = self.rollout.engine.tensor_parallel, self.placement.rollout_gpus
        if gpus and workers not in (1, gpus):
            raise ValueError(
                f"rollout.engine.tensor_parallel {workers} does not go with placement.rollout_gpus {gpus:g}: leave it "
                f"out, and set placement.rollout_gpus={workers}"
            )
        return self

    @model_validator(mode="after")
    def _gdpo_is_an_advantage_itself(self) -> RunSettings:
        if self.reward.scalariser == "gdpo" and self.grpo.advantage in ("dr_grpo", "rloo"):
            raise ValueError(
                f"reward.scalariser=gdpo compares episodes itself, so grpo.advantage={self.grpo.advantage} would have "
                "no say: leave it at grpo, or take an estimator of turns"
            )
        return self

    @model_validator(mode="after")
    def _gdpo_has_no_scalar_reward(self) -> RunSettings:
        if self.reward.scalariser == "gdpo" and self.grpo.folds_kl:
            raise ValueError(
                "grpo.kl_in=reward folds the divergence into the scalar reward, and reward.scalariser=gdpo has none: "
                "leave it at loss"
            )
        return self

    @model_validator(mode="after")
    def _conducted_episodes_are_all_trained(self) -> RunSettings:
        if self.reward.scalariser == "conductor" and self.grpo.truncated == "mask":
            raise ValueError(
                "grpo.truncated=mask leaves episodes out of the pass that trains, in which the Conductor reads all of "
                "a group: leave it at train"
            )
        return self

    @model_validator(mode="after")
    def _conducted_sequences_cannot_wait(self) -> RunSettings:
        if self.reward.scalariser == "conductor" and self.grpo.max_sequences:
            raise ValueError(
                "grpo.max_sequences lets sequences wait for a later step, but the Conductor weighs whole groups at "
                "once: leave it at 0"
            )
        return self

    @model_validator(mode="after")
    def _conducted_groups_are_weighed_once(self) -> RunSettings:
        if self.reward.scalariser == "conductor" and self.grpo.epochs > 1 and not self.contexts_ahead:
            raise ValueError(
                f"grpo.epochs={self.grpo.epochs} walks through a batch again, but the Conductor weighs each group once "
                "in the pass that trains it: leave it at 1, or set reward.conductor.context_pass=own"
            )
        return self
