"""What travels from the learner to the engines: `WeightUpdate`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import safetensors.torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class WeightUpdate:
    """Weights of one policy version.

    Attributes:
        version: rises by one with every publication.
        kind: `full`: every weight under its Hugging Face name, `lm_head.weight` always among them, also where it is
            tied to the embedding (an engine that loads only the embedding may keep its old output head).
            `lora`: adapter weights under PEFT's names, as in `adapter_model.safetensors`.
        tensors: the weights as one safetensors file.
        adapter_config: content of PEFT's `adapter_config.json` for `lora`, None for `full`.
    """

    version: int
    kind: Literal["full", "lora"]
    tensors: bytes
    adapter_config: dict[str, Any] | None = None

    def load(self) -> dict[str, Tensor]:
        """The weights by name."""
        return safetensors.torch.load(self.tensors)


def serialize(tensors: Mapping[str, Tensor]) -> bytes:
    """One safetensors file; tensors that share memory are written once each."""
    seen: set[int] = set()
    separate: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage().data_ptr()
        separate[name] = tensor.clone() if storage in seen else tensor.contiguous()
        seen.add(storage)
    return safetensors.torch.save(separate)
