"""From gathered weights to what others read: a `WeightUpdate` for engines, a model directory for people."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Any

import peft
import safetensors.torch
import torch
from torch import Tensor
from transformers.core_model_loading import revert_weight_conversion

from learners.learner_settings import LoraSettings, PolicySettings
from learners.policy.model import PolicyModel
from learners.policy.weight_update import WeightUpdate, serialize

HEAD = "lm_head.weight"


def make_update(model: PolicyModel, state: dict[str, Tensor], version: int, config: PolicySettings) -> WeightUpdate:
    """`state` holds PolicyModel's weights by name: adapters at least for LoRA, all of them otherwise."""
    dtype = getattr(torch, config.dtype)
    if isinstance(model.lm, peft.PeftModel):
        adapters = peft.get_peft_model_state_dict(model.lm, state_dict=_without_prefix(state))
        tensors = {name: tensor.to(dtype) for name, tensor in adapters.items()}
        return WeightUpdate(version, "lora", serialize(tensors), _plain(model.lm.peft_config["default"].to_dict()))
    return WeightUpdate(version, "full", serialize(_hugging_face_weights(model, state, config)))


def write_model(model: PolicyModel, state: dict[str, Tensor], directory: Path, config: PolicySettings) -> None:
    """Write config.json, generation_config.json and model.safetensors."""
    directory.mkdir(parents=True, exist_ok=True)
    tensors = _hugging_face_weights(model, state, config)
    lm = model.causal_lm
    if lm.config.tie_word_embeddings:
        del tensors[HEAD]
    safetensors.torch.save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    lm.config.save_pretrained(directory)
    if lm.generation_config is not None:
        lm.generation_config.save_pretrained(directory)


def merge_adapters(state: dict[str, Tensor], config: LoraSettings) -> dict[str, Tensor]:
    """W + alpha / rank * B A for every adapted layer, under the base model's names. Computed in float32."""
    merged: dict[str, Tensor] = {}
    for name, tensor in state.items():
        name = name.removeprefix("base_model.model.")
        if ".lora_" in name:
            continue
        merged[name.replace(".base_layer.", ".")] = tensor
    for name, down in state.items():
        if ".lora_A." not in name:
            continue
        up = state[name.replace(".lora_A.", ".lora_B.")]
        target = name.removeprefix("base_model.model.").partition(".lora_A.")[0] + ".weight"
        delta = config.alpha / config.rank * (up.float() @ down.float())
        merged[target] = (merged[target].float() + delta).to(merged[target].dtype)
    return merged


def _hugging_face_weights(model: PolicyModel, state: dict[str, Tensor], config: PolicySettings) -> dict[str, Tensor]:
    """Every weight under its name in a checkpoint, the output head too where it is tied.

    transformers holds the experts of a layer in one tensor; checkpoints name them one by one, and
    the engine's loader reads checkpoints.
    """
    tensors = _without_prefix(state)
    if config.lora:
        tensors = merge_adapters(tensors, config.lora)
    tensors = revert_weight_conversion(model.causal_lm, tensors)
    if HEAD not in tensors:
        tensors[HEAD] = tensors[f"{model.causal_lm.base_model_prefix}.embed_tokens.weight"]
    return {name: tensor.to(getattr(torch, config.dtype)).contiguous() for name, tensor in tensors.items()}


def _without_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("lm."): tensor for name, tensor in state.items()}


def _plain(value: Any) -> Any:
    """What json can write: PEFT's configuration holds sets and enums."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (set, list, tuple)):
        return [_plain(item) for item in (sorted(value) if isinstance(value, set) else value)]
    return value.value if isinstance(value, enum.Enum) else value
