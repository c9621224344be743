"""State of an actor in a checkpoint: plain values, arrays and tensors in one safetensors file. No pickle: whoever reads
a file of somebody else's runs nothing of it.

The tensors lie in the file as such; its metadata hold the rest as JSON, in which lists are lists, and everything else
that JSON has no word for is an object of one key: `{"tuple": [...]}`, `{"dict": [[key, value], ...]}`,
`{"tensor": name}`, `{"array": name}`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from trajectories.files import reading

STATE = "state"
"""Key of the JSON in the file's metadata."""
EARLIER = "delete the folder of its step to resume from an earlier one"
"""What mends a damaged checkpoint, wherever in it the damage is."""


def write_state(file: Path, state: Any) -> None:
    """Write nested dicts, lists and tuples of None, truth values, numbers, texts, tensors and arrays.

    Raises TypeError for anything else.
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_worded(state, tensors))
    save_file(tensors, file, metadata={STATE: text})


def read_state(file: Path) -> Any:
    """What `write_state` was given; mappings come back as dicts. Raises UserError where the file is damaged."""
    with reading(file, EARLIER):
        try:
            with safe_open(file, framework="pt") as held:
                tensors = {name: held.get_tensor(name) for name in held.keys()}  # noqa: SIM118
                words = json.loads((held.metadata() or {})[STATE])
            return _meant(words, tensors)
        except (SafetensorError, KeyError, TypeError) as error:
            raise ValueError(str(error)) from error


def _worded(value: Any, tensors: dict[str, Tensor]) -> Any:
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, list):
        return [_worded(one, tensors) for one in value]
    if isinstance(value, tuple):
        return {"tuple": [_worded(one, tensors) for one in value]}
    if isinstance(value, Mapping):
        return {"dict": [[_worded(key, tensors), _worded(one, tensors)] for key, one in value.items()]}
    if isinstance(value, Tensor | np.ndarray):
        name = str(len(tensors))
        tensors[name] = torch.as_tensor(value).detach().cpu().contiguous().clone()
        return {"tensor" if isinstance(value, Tensor) else "array": name}
    raise TypeError(f"a state holds a {type(value).__name__}, which has no plain form")


def _meant(words: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(words, list):
        return [_meant(one, tensors) for one in words]
    if not isinstance(words, dict):
        return words
    ((kind, value),) = words.items()
    match kind:
        case "tuple":
            return tuple(_meant(value, tensors))
        case "dict":
            return {_meant(key, tensors): _meant(one, tensors) for key, one in value}
        case "tensor":
            return tensors[value]
        case "array":
            return tensors[value].numpy()
    raise ValueError(f"a state has no {kind!r}")
