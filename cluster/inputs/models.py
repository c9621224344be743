"""Model names as users write them: a directory, a hub name, or `concerto-tiny`, the model that Concerto ships."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from learners.learner_settings import TINY
from trajectories.errors import UserError, first_line
from trajectories.files import reading

if TYPE_CHECKING:
    from learners.learner_settings import PolicySettings
    from trajectories.builder import PromptSettings
    from trajectories.chat import ChatTokenizer

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
HUB_PATIENCE_S = 10
SAVE_AGAIN = "save the model again with save_pretrained, or fetch it again."


def resolve_model(name: str) -> str:
    """The directory or hub name to load. Raises UserError when `name` is no model, before anything is started."""
    if name == TINY:
        from learners.tiny import embedded_model_path

        return str(embedded_model_path())
    path = Path(name).expanduser()
    if path.is_dir():
        _check_directory(path)
        return str(path.resolve())
    if HUB_NAME.fullmatch(name) and not path.parent.is_dir():
        _check_hub(name)
        return name
    raise UserError(
        f"no model at {name!r}: give a directory with config.json and *.safetensors, a hub name such as "
        f"Qwen/Qwen2.5-0.5B-Instruct, or {TINY}."
    )


def load_tokenizer(model: str, prompt: PromptSettings | None = None) -> ChatTokenizer:
    """The tokenizer of what `resolve_model` gave. Raises UserError when it cannot be had, knows no chat, or its chat
    template does not read what `prompt` passes to it, or refuses a conversation as `prompt` makes it."""
    from trajectories.chat import ChatTokenizer  # here, because it takes seconds

    try:
        tokenizer = ChatTokenizer.from_pretrained(model)
    except UserError:
        raise
    except Exception as error:  # a damaged file and a faulty template raise what they like
        raise UserError(
            f"the tokenizer of {model} cannot be used ({first_line(error)}): check the name, or save "
            "one that has a chat template beside the model."
        ) from None
    if prompt is not None:
        tokenizer.check_options(prompt.chat_template_kwargs)
        tokenizer.check_conversation(prompt.system, prompt.template_options)
    return tokenizer


def check_trainable(model: str, policy: PolicySettings) -> None:
    """Raises UserError where a run could not publish what it trains: engines repack quantised layers as they load."""
    from transformers import PretrainedConfig  # here, because it takes seconds

    if policy.lora is None and PretrainedConfig.get_config_dict(model)[0].get("quantization_config"):
        raise UserError(
            f"{model} has quantised weights, which can be neither trained nor published: set policy.model to the model "
            "before quantisation, or train adapters (policy.lora.rank=16)."
        )


@cache
def _check_hub(name: str) -> None:
    """Whether the model is in the hub's cache here, or the hub knows it: Transformers asks six times for each file, for
    half a minute where there is no network. Raises UserError."""
    from huggingface_hub import HfApi, try_to_load_from_cache  # here, because most runs need none

    if isinstance(try_to_load_from_cache(name, "config.json"), str):
        return
    try:
        HfApi().model_info(name, timeout=HUB_PATIENCE_S)
    except Exception as error:  # of the HTTP client that it happens to use
        raise UserError(
            f"no model {name!r} here, and the hub does not give it ({first_line(error)}): give a directory that "
            "exists, or fetch the model where there is a network (`hf download`)."
        ) from error


def _check_directory(path: Path) -> None:
    missing = [
        name
        for name, pattern in (
            ("config.json", "config.json"),
            ("weights (*.safetensors)", "*.safetensors"),
            ("a tokenizer (tokenizer.json)", "tokenizer*"),
        )
        if not any(path.glob(pattern))
    ]
    if missing:
        raise UserError(
            f"{path} is no model directory: it lacks {', '.join(missing)}; save a model there with save_pretrained."
        )
    with reading(path / "config.json", SAVE_AGAIN):
        json.loads((path / "config.json").read_text(encoding="utf-8"))
    _check_weights(path)


def _check_weights(path: Path) -> None:
    """Whether every file of weights is whole, by its header: a copy that was cut off is refused at once, and not by an
    engine that has been loading for a minute. Raises UserError."""
    index = path / "model.safetensors.index.json"
    files = set(path.glob("*.safetensors"))
    if index.exists():
        with reading(index, SAVE_AGAIN):
            shards = json.loads(index.read_text(encoding="utf-8"))
            if not isinstance(shards, dict) or not isinstance(shards.get("weight_map"), dict):
                raise ValueError("it has no weight_map")
        files |= {path / name for name in shards["weight_map"].values()}
    for file in sorted(files):
        try:
            with reading(file, SAVE_AGAIN), safe_open(file, framework="numpy"):
                pass
        except SafetensorError as error:
            raise UserError(f"{file} is damaged ({first_line(error)}): {SAVE_AGAIN}") from error
