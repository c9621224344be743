"""What the probe measures: the projection matrices of a policy's decoder layers."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn

from trajectories.batch import PaddedBatch
from trajectories.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel  # seconds to import; those who only pass results on need none of it

PROJECTIONS = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)
"""The seven matrices of a decoder layer, in the order of the columns of `ProbeResult.norms`."""


class PolicyNetwork(Protocol):
    """What the probe needs of a model; `learners.policy.model.PolicyModel` has it. It must not drop out anything."""

    @property
    def causal_lm(self) -> PreTrainedModel:
        """The language model, adapters inside its layers."""
        ...

    @property
    def layers(self) -> list[nn.Module]:
        """Its decoder layers."""
        ...

    def __call__(self, batch: Any, /) -> Tensor:
        """log p(trained token | tokens before it) of a `PaddedBatch`, float32 [N], with a gradient."""
        ...

    def final_states(self, batch: PaddedBatch) -> AbstractContextManager[list[Tensor]]:
        """The state after the last token of each row, float32 [B, H], of the forward pass inside."""
        ...


def projections(policy: PolicyNetwork, last: int | None = None) -> dict[str, nn.Linear]:
    """The 7L linear layers by name ("0.self_attn.q_proj"), in the order of the columns; of adapted ones, the base.

    Args:
        last: leave out all but the last so many decoder layers.
    Raises:
        UserError: a decoder layer is not built as in Llama, Qwen2 and Qwen3, or there are not so many.
    """
    found = {}
    for number, layer in list(enumerate(policy.layers))[first_of(policy, last) :]:
        modules = dict(layer.named_modules())
        for name in PROJECTIONS:
            module = modules.get(f"{name}.base_layer", modules.get(name))
            if not isinstance(module, nn.Linear):
                raise UserError(
                    f"layer {number} of {type(policy.causal_lm).__name__} has no linear layer {name}; "
                    "the probe reads dense models built as Llama, Qwen2 and Qwen3 are"
                )
            found[f"{number}.{name}"] = module
    return found


def first_of(policy: PolicyNetwork, last: int | None) -> int:
    """The number of the first of the last so many decoder layers."""
    count = len(policy.layers)
    if last is not None and last > count:
        raise UserError(f"the probe was asked for {last} layers of a model of {count}: set router.sample_layers lower")
    return count - last if last is not None else 0
