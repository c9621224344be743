"""The one check of a model: its files, tokenizer and chat template, and whether learner and engine can do with it what
the settings ask for. It takes seconds and no weights, and every command that starts a model makes it first."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from transformers import PreTrainedModel

from actors.engine_limits import check_engine
from cluster.config.run import RunSettings
from cluster.inputs.models import load_tokenizer, resolve_model
from envs.prompts import instructions
from learners.policy.model import PolicyModel
from learners.policy.outline import check_adapters, outline
from learners.policy.publication import ADAPTER
from router.network import projections
from trajectories.chat import ChatTokenizer
from trajectories.errors import UserError
from trajectories.prompt_settings import PromptSettings


def check_model(config: RunSettings, environments: Iterable[str] = ()) -> str:
    """Check the model of a run or an evaluation; its directory or hub name.

    Args:
        environments: what is played, each with its own system message.
    Raises:
        UserError: its line names the setting at fault.
    """
    name, prompt = resolve_model(config.policy.model), config.rollout.prompt
    _check_room_for_adapters(config)
    lm = outline(name)  # before the tokenizer, whose loading reads the same config.json and says less of it
    tokenizer = load_tokenizer(name, prompt)
    told = {prompt.system, *(instructions(environment, prompt).system for environment in environments)}
    _check_vocabulary(name, lm, _tokens(tokenizer, told, prompt))
    check_engine(config.fitted_rollout.engine, lm.config, on_cpu=not config.placement.rollout_gpus)
    if config.policy.lora is not None:
        check_adapters(lm, config.policy.lora)
    if config.router.active and config.router.probes:
        _check_probe(lm)
    return name


def rounding(model: str, dtype: str) -> str | None:
    """What to tell of a model into which adapters are merged that is loaded in `dtype`; None where nothing is lost.

    Args:
        model: as `check_model` gave it.
    """
    if dtype == "float32" or not (Path(model) / ADAPTER / "adapter_config.json").exists():
        return None
    return (
        f"{model} has its adapters merged in float32, and {dtype} is too coarse for most of what they learned: set "
        "policy.dtype=float32"
    )


def check_probed_model(model: str) -> str:
    """Check a model that is only probed; its directory or hub name. Raises UserError."""
    name = resolve_model(model)
    _check_probe(outline(name))
    return name


def _check_probe(lm: PreTrainedModel) -> None:
    projections(PolicyModel(lm, torch.float32))


def _check_room_for_adapters(config: RunSettings) -> None:
    lora, room = config.policy.lora, config.rollout.engine.lora
    if room is None:
        return
    if lora is None:
        raise UserError("rollout.engine.lora makes room for adapters, but policy.lora trains none: leave it out.")
    if lora.rank > room.max_rank or not set(lora.target_modules) <= set(room.target_modules):
        raise UserError(
            "rollout.engine.lora has no room for the adapters of policy.lora, of higher rank or on other layers: leave "
            "it out, and it follows policy.lora."
        )


def _tokens(tokenizer: ChatTokenizer, told: Iterable[str], prompt: PromptSettings) -> int:
    """One more than the highest token id that can get into a prompt below one of these system messages."""
    shown = (tokenizer.check_conversation(system, prompt.template_options) for system in told)
    return max(tokenizer.size, *(max(ids) + 1 for ids in shown))


def _check_vocabulary(name: str, lm: PreTrainedModel, tokens: int) -> None:
    rows = lm.get_input_embeddings().weight.shape[0]  # pyright: ignore[reportIndexIssue]
    if tokens > rows:
        raise UserError(
            f"the tokenizer of {name} has {tokens} tokens and the model only {rows}: save the model's own tokenizer "
            "beside it."
        )
