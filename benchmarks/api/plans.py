"""What a run on GPUs would be made of, resolved without one: engine arguments, memory plans and placements."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from transformers import AutoConfig

from actors.engine_limits import check_engine
from benchmarks.api.signatures import accepts, signatures_of
from benchmarks.api.sources import Definition, Sources
from cluster.config.loading import load_config
from cluster.config.run import RunSettings
from cluster.runtime.memory_plan import MemoryPlan, plan_memory
from cluster.runtime.placement import Node, PlacementPlan, plan_placement
from cluster.runtime.session import run_demands
from learners.policy.memory import Shape, shape_of
from learners.policy.outline import outline

ARGUMENTS = "vllm.engine.arg_utils.AsyncEngineArgs"
KEYS = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size",
    "max_position_embeddings",
)  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    name: dict(zip(KEYS, sizes, strict=True)) | {"model_type": family, "tie_word_embeddings": tied, "dtype": "bfloat16"}
    for name, family, sizes, tied in (
        ("Qwen/Qwen2.5-0.5B-Instruct", "qwen2", (896, 4864, 24, 14, 2, 151936, 32768), True),
        ("Qwen/Qwen2.5-1.5B-Instruct", "qwen2", (1536, 8960, 28, 12, 2, 151936, 32768), True),
        ("Qwen/Qwen2.5-7B-Instruct", "qwen2", (3584, 18944, 28, 28, 4, 152064, 32768), False),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama", (4096, 14336, 32, 32, 8, 128256, 131072), False),
    )
}
"""What of a model's config.json the plans read; no hub is asked."""
VARIANTS: dict[str, tuple[str, ...]] = {
    "all weights": (),
    "adapters": ("policy.lora.rank=16",),
    "advice by the policy": ("experience.enabled=true", "experience.base_url=policy"),
    "two GPUs an engine": ("placement.rollout_gpus=2",),
}
"""What changes an engine's arguments, by what a reader calls it."""
PRESETS = ("gpu", "cluster")
MACHINES: dict[str, tuple[Node, ...]] = {
    "1 GPU": (Node("node-0", 16, 1),),
    "8 GPUs": (Node("node-0", 96, 8),),
    "4 x 8 GPUs": tuple(Node(f"node-{number}", 96, 8) for number in range(4)),
}
"""Clusters with nothing on them: 16 CPU cores beside one GPU, 96 beside eight."""
WIDE = ("placement.rollout_actors=16", "placement.learner_workers=16", "placement.environment_hosts=64")
PLACED: tuple[tuple[str, str, tuple[str, ...], bool], ...] = (
    ("gpu", "1 GPU", (), True),
    ("gpu", "8 GPUs", (), True),
    ("cluster", "1 GPU", (), False),
    ("cluster", "8 GPUs", (), True),
    ("cluster", "4 x 8 GPUs", (), True),
    ("cluster", "4 x 8 GPUs", WIDE, True),
)
"""(preset, machine, changes, whether it has to fit)."""


@dataclass(frozen=True, slots=True)
class EngineCase:
    """The arguments that a run would start its engines with.

    Attributes:
        faults: what the build would not take of them.
    """

    preset: str
    model: str
    variant: str
    arguments: dict[str, Any]
    faults: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MemoryCase:
    """The memory plan of a preset with a model, and the one with the settings that it names where it does not fit."""

    config: RunSettings
    preset: str
    plan: MemoryPlan
    mended: MemoryPlan | None

    @property
    def as_promised(self) -> bool:
        """The preset fits with its own model, and any other with the settings that are named."""
        own = self.config.policy.model == load_config(self.preset).policy.model
        if own and self.plan.complaints():
            return False
        return self.mended is None or not self.mended.complaints()


@dataclass(frozen=True, slots=True)
class PlacementCase:
    """Where the actors of a preset would go."""

    preset: str
    machine: str
    changes: tuple[str, ...]
    plan: PlacementPlan
    has_to_fit: bool

    @property
    def as_promised(self) -> bool:
        """It fits where it has to."""
        return self.plan.feasible or not self.has_to_fit


def engine_cases(build: Sources) -> list[EngineCase]:
    """Every preset with every model and variant, its arguments compared with the build."""
    found = []
    for preset in PRESETS:
        for model in MODELS:
            for variant, changes in VARIANTS.items():
                arguments = engine_arguments(load_config(preset, None, (f"policy.model={model}", *changes)))
                faults = argument_faults(build, arguments)
                found.append(EngineCase(preset, model, variant, arguments, faults))
    return found


def argument_faults(build: Sources, arguments: dict[str, Any]) -> tuple[str, ...]:
    """What the engine of a build would not take: names that it does not know, values that its annotations rule out."""
    made = build.find(ARGUMENTS)
    signatures = signatures_of(build, made) if isinstance(made, Definition) else []
    if not signatures:
        return (f"the build has no {ARGUMENTS}",)
    known, faults = signatures[0], []
    for name, value in arguments.items():
        if name not in known.names:
            faults.append(f"no argument {name}")
        elif accepts(build, *known.annotations[name], value) is False:
            faults.append(f"{name} takes no {value!r}")
    return tuple(faults)


def engine_arguments(config: RunSettings) -> dict[str, Any]:
    """What the engine's own function passes on a machine with GPUs, in a run that joins a cluster.

    Of the installed vLLM the two classes are replaced that would be filled, and the answer to what machine this is.

    Raises:
        UserError: the model cannot be served so.
    """
    from actors import vllm_engine  # seconds to import

    engine = config.fitted_rollout.engine.model_copy(update={"metrics": True})
    check_engine(engine, AutoConfig.for_model(**MODELS[config.policy.model]), on_cpu=False)
    on_gpu = SimpleNamespace(is_cpu=lambda: False)
    replaced: dict[str, Any] = {"AsyncEngineArgs": dict, "StructuredOutputsConfig": dict, "current_platform": on_gpu}
    with mock.patch.multiple(vllm_engine, **replaced):
        made: Any = vllm_engine._engine_args(config.policy.model, engine, Path("DIRECTORY"))
    return made


def memory_cases() -> list[MemoryCase]:
    """The memory plan of every preset with every model."""
    found = []
    for preset in PRESETS:
        for model in MODELS:
            config = load_config(preset, None, (f"policy.model={model}",))
            plan = plan_memory(config, model_shape(model))
            mended = None
            if plan.mends:
                config_mended = load_config(preset, None, (f"policy.model={model}", *plan.mends))
                mended = plan_memory(config_mended, model_shape(model))
            found.append(MemoryCase(config, preset, plan, mended))
    return found


def placement_cases() -> list[PlacementCase]:
    """Where the actors would go on `MACHINES`."""
    found = []
    for preset, machine, changes, has_to_fit in PLACED:
        plan = plan_placement(run_demands(load_config(preset, None, changes)), MACHINES[machine])
        found.append(PlacementCase(preset, machine, changes, plan, has_to_fit))
    return found


@cache
def model_shape(model: str) -> Shape:
    """The shape of one of `MODELS`, as `concerto plan` reads it from a folder."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(MODELS[model]), encoding="utf-8")
        return shape_of(outline(folder))


def readable(value: Any) -> Any:
    """A value as a reader knows it: a class by its name."""
    return f"{value.__module__}.{value.__qualname__}" if isinstance(value, type) else value
