"""What an engine is told to take: adapters as they are (`AdapterUpdate`), or that all weights come (`WeightOffer`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import safetensors.torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class AdapterUpdate:
    """Adapters of one policy version.

    Attributes:
        version: rises by one with every publication.
        tensors: the weights as one safetensors file, under PEFT's names, as in `adapter_model.safetensors`.
        adapter_config: content of PEFT's `adapter_config.json`.
    """

    version: int
    tensors: bytes
    adapter_config: dict[str, Any]

    def load(self) -> dict[str, Tensor]:
        """The weights by name."""
        return safetensors.torch.load(self.tensors)


@dataclass(frozen=True, slots=True)
class WeightOffer:
    """All weights of one policy version, which the learner's first worker sends while the engine takes them.

    Attributes:
        version: rises by one with every publication.
        host, port: where the two ends meet; one address for the life of a pool of learner workers.
        life: names the engine and one life of it. The same life keeps the connection that it has made.
    """

    version: int
    host: str
    port: int
    life: str


WeightUpdate = AdapterUpdate | WeightOffer


def serialize(tensors: Mapping[str, Tensor]) -> bytes:
    """One safetensors file; tensors that share memory are written once each."""
    seen: set[int] = set()
    separate: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage().data_ptr()
        separate[name] = tensor.clone() if storage in seen else tensor.contiguous()
        seen.add(storage)
    return safetensors.torch.save(separate)
