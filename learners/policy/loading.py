"""From a model's directory or hub name to the `PolicyModel` that trains: whole on one worker, in shards on several.

With several workers no rank ever holds the whole model. It is built without weights, sharded, and then every rank reads
from the safetensors files the rows that are its own. transformers does the reading, since it knows under which names a
checkpoint keeps a weight, and which weights are made of several (experts).
"""

from __future__ import annotations

import math
from contextlib import ExitStack, suppress
from typing import Any

import peft
import torch
from safetensors import safe_open
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import convert_and_load_state_dict_in_model
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import LoadStateDictConfig
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME
from transformers.utils.hub import cached_file, get_checkpoint_shard_files

from learners.learner_settings import LoraSettings, PolicySettings
from learners.policy import distributed
from learners.policy.attention import implementation
from learners.policy.model import PolicyModel
from learners.policy.outline import outline, refused
from trajectories.errors import UserError

ADAPTED = ".base_layer."
"""What PEFT puts into the name of a weight beside which there is an adapter."""


def load_policy(config: PolicySettings, seed: int, device: torch.device) -> PolicyModel:
    """Load the model on `device`, sharded where there are several workers, with fresh adapters if configured.

    Weights that train are float32; a frozen base model is kept in `config.dtype`. Adapters are the same for a seed,
    whatever the number of workers.

    Raises:
        UserError: there is no such model, or it cannot be loaded.
    """
    computed = getattr(torch, config.dtype)
    kept = computed if config.lora else torch.float32
    sharded = distributed.world_size() > 1
    lm = outline(config.model, kept) if sharded else _loaded(config.model, kept)
    if config.gradient_checkpointing:
        lm.gradient_checkpointing_enable({"use_reentrant": False})
        lm.enable_input_require_grads()
    model = PolicyModel(_with_adapters(lm, config.lora) if config.lora else lm, computed)
    _silence(model)
    if sharded:
        distributed.shard(model, device, computed)
        _fill(model.causal_lm, config.model, device)
    else:
        model.to(device)
    if config.lora:
        _draw_adapters(model, seed)
    return model


def _loaded(name: str, dtype: torch.dtype) -> PreTrainedModel:
    try:
        how = implementation(AutoConfig.from_pretrained(name, trust_remote_code=False))
        return AutoModelForCausalLM.from_pretrained(name, dtype=dtype, attn_implementation=how, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise refused(name, error) from error


def _fill(lm: PreTrainedModel, name: str, device: torch.device) -> None:
    """Give a sharded model without weights those of its checkpoint: to each rank its own rows.

    Raises:
        UserError: the checkpoint lacks a weight, or has one of another shape.
    """
    with ExitStack() as opened:
        files = [opened.enter_context(safe_open(file, framework="pt")) for file in _weight_files(name)]
        ours: dict[str, str] = {key.replace(ADAPTED, "."): key for key in lm.state_dict()}
        rows: Any = {
            ours.get(key, key): file.get_slice(key)
            for file in files
            for key in file.keys()  # noqa: SIM118
        }
        mapping: Any = get_model_conversion_mapping(lm)
        load = LoadStateDictConfig(device_map={"": device}, dtype=lm.dtype, weight_mapping=mapping)
        found, _ = convert_and_load_state_dict_in_model(lm, rows, load)
        without_rows = distributed.settle_shards(lm)
    lm.tie_weights(missing_keys=found.missing_keys, recompute_mapping=False)
    missing = {key for key in found.missing_keys - lm.all_tied_weights_keys.keys() if ".lora_" not in key}
    unfit = missing | {key for key, *_ in found.mismatched_keys} | found.conversion_errors.keys()
    unfit = sorted(unfit - without_rows)
    if unfit:
        raise UserError(
            f"the files of {name} do not hold {unfit[0]}{f' and {len(unfit) - 1} more weights' * (len(unfit) > 1)} as "
            "its config.json describes them: save the model again with its own configuration"
        )
    with suppress(OSError):  # most base models have none
        lm.generation_config = GenerationConfig.from_pretrained(name)


def _weight_files(name: str) -> list[str]:
    """The safetensors files of a directory or hub name, which are downloaded where need be."""
    whole = cached_file(name, SAFE_WEIGHTS_NAME, _raise_exceptions_for_missing_entries=False)
    if whole is not None:
        return [whole]
    index = cached_file(name, SAFE_WEIGHTS_INDEX_NAME, _raise_exceptions_for_missing_entries=False)
    if index is None:
        raise UserError(
            f"{name} has no {SAFE_WEIGHTS_NAME}, from which several workers read their shards: save it with "
            "save_pretrained, or train with placement.learner_workers=1"
        )
    files, _ = get_checkpoint_shard_files(name, index)
    return list(files or ())


def _with_adapters(lm: PreTrainedModel, config: LoraSettings) -> peft.PeftModel:
    """The model with adapters that still have no values."""
    with torch.random.fork_rng():  # PEFT draws values of its own, which `_draw_adapters` replaces
        adapted = peft.get_peft_model(
            lm,
            peft.LoraConfig(
                r=config.rank,
                lora_alpha=config.alpha,  # pyright: ignore[reportArgumentType]
                target_modules=list(config.target_modules),
                task_type="CAUSAL_LM",
            ),
        )
    assert isinstance(adapted, peft.PeftModel)
    return adapted


def _draw_adapters(model: PolicyModel, seed: int) -> None:
    """Fresh adapters as PEFT makes them: A uniform in +-1/sqrt(columns), B zero. Every rank draws all of them, small as
    they are, and keeps its rows."""
    draw = torch.Generator().manual_seed(seed)
    for path, module in model.named_modules():
        if ".lora_A." in path or ".lora_B." in path:
            (name,) = dict(module.named_parameters(recurse=False))
            whole = torch.zeros(getattr(module, name).shape)
            if ".lora_A." in path:
                nn.init.kaiming_uniform_(whole, a=math.sqrt(5), generator=draw)
            distributed.assign(module, name, whole)


def _silence(model: nn.Module) -> None:
    """Ratios compare two passes over the same tokens, so the passes must be deterministic, as the engine's are: no
    dropout, no noise on what routers of experts see. Decoder layers alone that are to recompute their activations stay
    in training mode, since without it they do not; what they hold does not."""
    model.eval()
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer) and module.gradient_checkpointing:
            module.training = True
