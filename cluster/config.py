"""The typed run configuration: presets, a YAML file and `--set` overrides, merged in this order and then checked.

Every wrong key, type or value becomes one line that names the fix.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from actors.rollout_group import RolloutSettings
from cluster.errors import UserError, did_you_mean
from cluster.models import TINY
from cluster.settings import (
    CheckpointSettings,
    EvaluationSettings,
    PlacementSettings,
    ScheduleSettings,
    Settings,
)
from envs import ENVIRONMENTS
from learners.learner_config import GRPOConfig, OptimizerConfig, PolicyConfig, SFTConfig
from learners.rewards.reward_config import RewardConfig
from router.router_config import RouterConfig


class RunConfig(Settings):
    """All of a run. `concerto train --set section.key=value` changes any of it."""

    seed: int = 0
    """Of task order, sampling and learner."""
    tasks: tuple[str, ...] = Field(default=("alfworld",), min_length=1)
    """What to train on, in equal shares: environments, as in [alfworld, webshop], or panels, as in [alfworld/train]."""
    data: dict[str, str] = Field(default_factory=dict)
    """Path of an environment's data, as in data.webshop=DIR; without one, what is installed or embedded is played."""
    policy: PolicyConfig
    learner: OptimizerConfig = OptimizerConfig()
    sft: SFTConfig = SFTConfig()
    grpo: GRPOConfig = GRPOConfig()
    reward: RewardConfig = RewardConfig()
    router: RouterConfig = RouterConfig()
    rollout: RolloutSettings = RolloutSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    placement: PlacementSettings = PlacementSettings()

    @field_validator("tasks", mode="before")
    @classmethod
    def _one_or_several(cls, tasks: Any) -> Any:
        return (tasks,) if isinstance(tasks, str) else tasks

    @field_validator("tasks", "data")
    @classmethod
    def _known_environments(cls, names: Any) -> Any:
        for name in names:
            environment = name.partition("/")[0]
            if environment not in ENVIRONMENTS:
                known = ", ".join(ENVIRONMENTS)
                hint = did_you_mean(environment, ENVIRONMENTS)
                raise ValueError(f"unknown environment {environment!r}: choose one of {known}.{hint}")
        if len(set(names)) < len(names):
            raise ValueError("each environment or panel can be named once; shares are equal")
        return names

    @model_validator(mode="after")
    def _gdpo_is_an_advantage_itself(self) -> RunConfig:
        if self.reward.scalariser == "gdpo" and self.grpo.advantage != "grpo":
            raise ValueError(
                f"reward.scalariser=gdpo makes the advantages itself, so grpo.advantage={self.grpo.advantage} would "
                "have no say: leave it at grpo"
            )
        return self

    @model_validator(mode="after")
    def _compared_turns_are_sequences(self) -> RunConfig:
        if self.grpo.advantage == "gigpo" and self.rollout.prompt.mode != "windowed":
            raise ValueError(
                "grpo.advantage=gigpo gives every turn its own advantage, but a transcript has one for the whole "
                "episode: set rollout.prompt.mode=windowed"
            )
        return self

    @model_validator(mode="after")
    def _conducted_sequences_cannot_wait(self) -> RunConfig:
        if self.reward.scalariser == "conductor" and self.grpo.max_sequences:
            raise ValueError(
                "grpo.max_sequences lets sequences wait for a later step, but the Conductor weighs whole groups at "
                "once: leave it at 0"
            )
        return self


DEFAULTS = {"policy": {"model": TINY}}

PRESETS: dict[str, dict[str, Any]] = {
    # No GPU: one engine, one environment process and one learner share this machine. Sized for the embedded
    # model and 15 minutes on two cores.
    "local": {
        "learner": {"lr": 1e-3, "warmup_steps": 10, "token_budget": 1024},
        "sft": {"lr_scale": {"start": 1.0, "end": 0.1, "steps": 240}},
        # At the rate where SFT ends. By sequence: a failed episode has all turns there are, so that by token failures
        # would outweigh successes.
        "grpo": {"lr_scale": {"start": 0.1, "end": 0.1}, "aggregation": "sequence"},
        "rollout": {"max_turns": 30},
        "schedule": {
            "sft_steps": 240,
            "grpo_steps": 16,
            "demonstrations": 1600,
            "sft_batch": 16,
            "groups_per_step": 4,
            "group_size": 8,
        },
        "evaluation": {"limit": 100},
        "checkpoint": {"every": 4},
    },
    # One GPU, colocated: engine and learner take half of it each.
    "gpu": {
        "policy": {"model": "Qwen/Qwen2.5-1.5B-Instruct", "dtype": "bfloat16"},
        "placement": {"rollout_gpus": 0.5, "learner_gpus": 0.5, "environment_hosts": 4},
        "rollout": {"engine": {"gpu_memory_utilization": 0.4}},
        "schedule": {"parity_tolerance": 0.05},
    },
    # Many nodes, disaggregated: whole GPUs for each engine and each learner worker.
    "cluster": {
        "policy": {"model": "Qwen/Qwen2.5-7B-Instruct", "dtype": "bfloat16"},
        "placement": {
            "address": "auto",
            "rollout_actors": 4,
            "rollout_gpus": 1,
            "rollout_cpus": 4,
            "learner_workers": 4,
            "learner_gpus": 1,
            "learner_cpus": 4,
            "environment_hosts": 16,
            "environment_cpus": 1,
            "wait_s": 600,
        },
        "schedule": {"groups_per_step": 16, "parity_tolerance": 0.05},
    },
}


def load_config(preset: str, file: Path | None = None, overrides: Iterable[str] = ()) -> RunConfig:
    """The preset, changed by the YAML file, changed by `section.key=value` overrides.

    Raises UserError, whose one line names the wrong key or value and the nearest right one.
    """
    if preset not in PRESETS:
        raise UserError(
            f"unknown preset {preset!r}: choose one of {', '.join(PRESETS)}.{did_you_mean(preset, PRESETS)}"
        )
    values = merge(PRESETS[preset], _read_yaml(file) if file else {})
    for override in overrides:
        values = merge(values, _parse_override(override))
    return check_config(values)


def check_config(values: Mapping[str, Any]) -> RunConfig:
    """Raises UserError for the first wrong key, type or value."""
    try:
        return RunConfig.model_validate(merge(DEFAULTS, values))
    except ValidationError as error:
        raise UserError(_explain(error)) from None


def check_router_settings(**values: str) -> RouterConfig:
    """Settings of the router by themselves. Raises UserError for a wrong one."""
    try:
        return RouterConfig.model_validate(values)
    except ValidationError as error:
        raise UserError(_explain(error)) from None


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A new mapping in which `changes` win; sections are merged key by key.

    >>> merge({"a": {"x": 1, "y": 2}}, {"a": {"y": 3}})
    {'a': {'x': 1, 'y': 3}}
    """
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def keys(model: type[BaseModel] = RunConfig, prefix: str = "") -> Iterator[str]:
    """All dotted keys of the configuration."""
    for name, field in model.model_fields.items():
        section = _section(field.annotation)
        if section is not None:
            yield from keys(section, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read --config {file}: {error.strerror}. Check the path.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"--config {file} is no YAML: {' '.join(str(error).split())}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"--config {file} must hold sections such as `learner:`, not a {type(values).__name__}.")
    return values


def _parse_override(override: str) -> dict[str, Any]:
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise UserError(
            f"--set {override} is no assignment: write it as --set section.key=value, e.g. learner.lr=1e-5."
        )
    try:
        value: Any = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    for name in reversed(path.split(".")):
        value = {name: value}
    return value


def _section(annotation: Any) -> type[BaseModel] | None:
    """The section behind an annotation `Model` or `Model | None`."""
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def _explain(error: ValidationError) -> str:
    problem = error.errors()[0]
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = list(keys())
        last = key.rpartition(".")[2]
        same_name = [name for name in known if name.rpartition(".")[2] == last]
        hint = f" Did you mean {same_name[0]!r}?" if same_name else did_you_mean(key, known)
        siblings = [name for name in known if name.rpartition(".")[0] == key.rpartition(".")[0]]
        return f"unknown key {key!r} in the configuration.{hint or ' Known here: ' + ', '.join(siblings) + '.'}"
    if problem["type"] in ("model_type", "model_attributes_type"):
        inside = [name for name in keys() if name.startswith(f"{key}.")]
        return f"{key} is a section: set its keys one by one, e.g. --set {inside[0]}=VALUE."
    message = problem["msg"].removeprefix("Value error, ").rstrip(".?") + ("?" if problem["msg"].endswith("?") else ".")
    if isinstance(problem["input"], Mapping):  # several keys do not go together, and the message names them
        return f"{key}: {message}" if key else message
    return f"{key}={problem['input']!r} does not fit: {message[0].lower()}{message[1:]}"
