"""From the policy's weights to what others read: names and tensors for engines, a model directory for people."""

from __future__ import annotations

import copy
import enum
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import peft
import safetensors.torch
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers.core_model_loading import revert_weight_conversion
from transformers.utils import GENERATION_CONFIG_NAME

from learners.learner_settings import LoraSettings, PolicySettings
from learners.policy.model import PolicyModel
from learners.policy.weight_update import AdapterUpdate, serialize

HEAD = "lm_head.weight"
ADAPTER = "adapter"
"""Folder in a model directory that has the adapters by themselves, beside the model into which they are merged."""
LAYER = re.compile(r"\.layers\.\d+\.")


def adapter_update(lm: peft.PeftModel, state: dict[str, Tensor], version: int, config: PolicySettings) -> AdapterUpdate:
    """The adapters among PolicyModel's weights by name, in the precision of the engines."""
    tensors = {name: tensor.to(getattr(torch, config.dtype)) for name, tensor in _adapters(lm, state).items()}
    return AdapterUpdate(version, serialize(tensors), _plain(lm.peft_config["default"].to_dict()))


@torch.no_grad()
def checkpoint_weights(model: PolicyModel, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Every weight of a policy without adapters under its name in a checkpoint, one decoder layer after the other: an
    output head that is tied to the embedding does not come by itself, experts come one by one.

    Collective: sharded weights are gathered as they come, in `dtype`, and whoever holds none of them holds one layer
    at most. All others are the policy's own memory, in its own precision.
    """
    lm = model.causal_lm
    state = _without_prefix(model.state_dict())
    if lm.config.tie_word_embeddings:
        del state[HEAD]

    def unit(item: tuple[str, Tensor]) -> str:
        """The layer, for what stands outside of all layers the weight itself."""
        found = LAYER.search(item[0])
        return found[0] if found else item[0]

    for _, members in groupby(state.items(), unit):
        yield from revert_weight_conversion(lm, {name: _whole(tensor, dtype) for name, tensor in members}).items()


def write_model(model: PolicyModel, state: dict[str, Tensor], directory: Path, config: PolicySettings) -> None:
    """Write config.json, generation_config.json and model.safetensors, of full weights in `config.dtype`.

    With adapters these are merged, in float32, and the folder `adapter` has them by themselves, as PEFT reads them. A
    bfloat16 base is a grid too coarse for what they learned: most of it would be rounded away in the sum.
    """
    directory.mkdir(parents=True, exist_ok=True)
    lm, about = model.causal_lm, copy.deepcopy(model.causal_lm.config)
    # Those who load the model take it in the precision that is said here, and not in that of the file.
    about.dtype = torch.float32 if config.lora else getattr(torch, config.dtype)
    if isinstance(model.lm, peft.PeftModel):
        _write_adapter(model.lm, state, directory / ADAPTER)
    tensors = _hugging_face_weights(model, state, config)
    safetensors.torch.save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    about.save_pretrained(directory)
    if lm.generation_config is not None:
        # Its own `save_pretrained` refuses what models are published with, as a temperature beside greedy decoding.
        lm.generation_config.to_json_file(directory / GENERATION_CONFIG_NAME, keys_to_pop=["compile_config"])


def merge_adapters(state: dict[str, Tensor], config: LoraSettings) -> dict[str, Tensor]:
    """W + alpha / rank * B A for every adapted layer, under the base model's names, and all other weights, in float32:
    in the precision of a bfloat16 base, W plus less than half a step of its grid would be W again."""
    merged: dict[str, Tensor] = {}
    for name, tensor in state.items():
        name = name.removeprefix("base_model.model.")
        if ".lora_" in name:
            continue
        merged[name.replace(".base_layer.", ".")] = tensor.float()
    for name, down in state.items():
        if ".lora_A." not in name:
            continue
        up = state[name.replace(".lora_A.", ".lora_B.")]
        target = name.removeprefix("base_model.model.").partition(".lora_A.")[0] + ".weight"
        merged[target] = merged[target] + config.alpha / config.rank * (up.float() @ down.float())
    return merged


def _write_adapter(lm: peft.PeftModel, state: dict[str, Tensor], directory: Path) -> None:
    """Write adapter_model.safetensors, in float32, and adapter_config.json."""
    directory.mkdir(exist_ok=True)
    tensors = {name: tensor.contiguous() for name, tensor in _adapters(lm, state).items()}
    safetensors.torch.save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    lm.peft_config["default"].save_pretrained(str(directory))


def _adapters(lm: peft.PeftModel, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The adapters among PolicyModel's weights, under PEFT's names in a file."""
    return peft.get_peft_model_state_dict(lm, state_dict=_without_prefix(state))


def _hugging_face_weights(model: PolicyModel, state: dict[str, Tensor], config: PolicySettings) -> dict[str, Tensor]:
    """Every weight under its name in a checkpoint: merged ones in float32, all others in `config.dtype`, but buffers as
    they are. Nothing trains these, and DeepSeek's routers choose experts by a bias too fine for bfloat16.

    transformers holds the experts of a layer in one tensor; checkpoints name them one by one.
    """
    tensors, dtype = _without_prefix(state), getattr(torch, config.dtype)
    if config.lora:
        tensors = merge_adapters(tensors, config.lora)
    else:
        buffers = _without_prefix(dict(model.named_buffers()))
        tensors = {name: tensor if name in buffers else tensor.to(dtype) for name, tensor in tensors.items()}
    tensors = revert_weight_conversion(model.causal_lm, tensors)
    if model.causal_lm.config.tie_word_embeddings:
        tensors.pop(HEAD, None)
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def _whole(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype=dtype).full_tensor() if isinstance(tensor, DTensor) else tensor  # pyright: ignore[reportAttributeAccessIssue]


def _without_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("lm."): tensor for name, tensor in state.items()}


def _plain(value: Any) -> Any:
    """What json can write: PEFT's configuration holds sets and enums."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (set, list, tuple)):
        return [_plain(item) for item in (sorted(value) if isinstance(value, set) else value)]
    return value.value if isinstance(value, enum.Enum) else value
