"""The policy without its weights: what a model's configuration alone tells, in a second or two, before anything starts.

Nothing is loaded: weights are on torch's `meta` device, where tensors have shapes and no content. Buffers (rotary
frequencies) are real, since they follow from the configuration and no checkpoint holds them.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable

import peft
import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from learners.learner_settings import LoraSettings
from learners.policy.attention import PLAIN, implementation
from trajectories.errors import UserError, did_you_mean, first_line


def outline(model: str, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """The causal language model of a directory or hub name, without weights.

    Args:
        dtype: that its weights would have; None: what its configuration names.
    Raises:
        UserError: there is no such model, it is of another kind, or Transformers has no `sdpa` attention for it.
    """
    try:
        config = AutoConfig.from_pretrained(model, trust_remote_code=False)
        _check_text_only(model, config)
        with init_empty_weights(include_buffers=False):
            lm = AutoModelForCausalLM.from_config(
                config,
                attn_implementation=implementation(config),
                dtype=config.dtype if dtype is None else dtype,
                trust_remote_code=False,  # left open, Transformers asks at the terminal
            )
        lm.tie_weights()  # again: every parameter was replaced by one on `meta`
        return lm
    except UserError:
        raise
    except Exception as error:  # model classes raise errors of every kind for a configuration that does not fit
        raise refused(model, error) from error


def _check_text_only(model: str, config: PreTrainedConfig) -> None:
    if config.get_text_config() is not config:
        raise UserError(
            f"{model} ({config.model_type}) is not a language model alone, as those that see or hear are not: set "
            "policy.model to one that reads text only"
        )


def refused(model: str, error: Exception) -> UserError:
    """What to say of a model that Transformers does not load."""
    if "attention implementation" in str(error):
        reason = first_line(error).partition(". ")[0]  # behind it stands advice for programs
        return UserError(
            f"the model {model} has no attention {PLAIN!r}, with which it would be trained ({reason}); set "
            "policy.model to one that has it"
        )
    if "custom code" in str(error):
        return UserError(
            f"the model {model} brings code of its own, which is not run; set policy.model to one whose architecture "
            "Transformers has"
        )
    return UserError(
        f"{model} cannot be loaded as a Hugging Face causal language model ({first_line(error)}); set policy.model to "
        "one that holds config.json and model.safetensors"
    )


def check_adapters(lm: PreTrainedModel, lora: LoraSettings) -> None:
    """Whether every name in `lora.target_modules` is one of linear layers that adapters may change.

    PEFT itself leaves out in silence what is not there as long as one name fits, and the engine what it cannot adapt.

    Raises:
        UserError: a name that no linear layer has, that of the output head, or one that experts have too.
    """
    head = lm.get_output_embeddings()
    layers = {name: module for name, module in lm.named_modules() if isinstance(module, nn.Linear)}
    heads = {name.rpartition(".")[2] for name, module in layers.items() if module is head}
    known = list(dict.fromkeys(name.rpartition(".")[2] for name in layers))
    inner = [name for name in known if name not in heads]
    for name in lora.target_modules:
        if name in heads:
            raise UserError(
                f"policy.lora.target_modules names {name!r}, the output head, which the engine cannot adapt: leave it "
                "out"
            )
        if name not in inner:
            raise UserError(
                f"policy.lora.target_modules names {name!r}, but {type(lm).__name__} has no linear layer of that name."
                f"{did_you_mean(name, inner)} It has {', '.join(inner)}."
            )
    if beyond := _of_experts(lm, lora.target_modules):
        name, apt = min(beyond), [name for name in inner if name not in beyond]
        raise UserError(
            f"policy.lora.target_modules names {name!r}, which the experts of {type(lm).__name__} have too, and there "
            f"are no adapters for experts: leave it out. Without experts are {', '.join(apt)}."
        )


def _of_experts(lm: PreTrainedModel, names: Iterable[str]) -> set[str]:
    """The names that PEFT would take for those of experts too, where a layer holds all of its experts in one tensor.
    Their adapters are of another kind, and nothing here merges them into weights."""
    probe = peft.LoraConfig(r=1, target_modules=list(names))
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            peft.get_peft_model(copy.deepcopy(lm), probe)
        except ValueError:  # one name of a pair that such a tensor holds together
            return set(names)
    return set(names) - set(probe.target_modules or ()) if probe.target_parameters else set()
