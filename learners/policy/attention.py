"""Attention of the learner: Transformers' own `sdpa`, also in passes whose sequences share what they begin with.

Such a pass computes every distinct token once (`trajectories.sharing`): embeddings, norms, projections, feed-forward
parts. Attention alone looks from a token at all tokens before it, so there every sequence is a row again, bundled with
those of similar length.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from trajectories.sharing import Shared

PLAIN = "sdpa"
"""Transformers' name of the implementation that the learner asks for, but see `implementation`."""
SHARING = "sdpa_of_shared_tokens"
"""Our name of `attend`. Transformers makes no masks for a name that it does not know: causal attention needs none."""
FAMILIES = frozenset(
    {
        "cohere",
        "granite",
        "granitemoe",
        "llama",
        "mistral",
        "olmo2",
        "phi3",
        "qwen2",
        "qwen3",
        "qwen3_moe",
        "smollm3",
    }
)
"""Model types that call `attend` with what their forward pass was given, as tests/learners/policy/test_sharing.py shows
of each: a family joins when it passes there."""


def implementation(config: PreTrainedConfig) -> str:
    """The implementation for a model: `SHARING` where it can share tokens, and the eager one where scores are capped
    (Gemma 2), which `PLAIN` would not do and not say so."""
    if getattr(config, "attn_logit_softcapping", None):
        return "eager"
    return SHARING if can_share(config) else PLAIN


def can_share(config: PreTrainedConfig) -> bool:
    """Whether the model's attention is causal and nothing else, in a family that was tested: no window slides."""
    kinds = set(getattr(config, "layer_types", None) or ())
    slides = getattr(config, "sliding_window", None) or kinds - {"full_attention"}
    return config.model_type in FAMILIES and not slides


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    shared: Shared | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """The attention of one layer; where tokens are shared, of one row of L that stands for B of T.

    Args:
        query, key, value: [B, heads, T, D], or [1, heads, L, D].
        shared: as it was given to the model's forward pass.
    Returns:
        [B, T, heads, D], or [1, L, heads, D]; and no weights.
    """
    if shared is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    outputs = []
    for place in shared.bundles:
        rows = [_apart(states, place) for states in (query, key, value)]
        outputs.append(sdpa_attention_forward(module, *rows, attention_mask=None, **options)[0].flatten(0, 1))
    return torch.cat(outputs).index_select(0, shared.bundled)[None], None


def _apart(states: Tensor, place: Tensor) -> Tensor:
    """[b, heads, t, D] of [1, heads, L, D]: the states of the tokens of some rows."""
    return states[0].transpose(0, 1).index_select(0, place.flatten()).unflatten(0, place.shape).transpose(1, 2)


AttentionInterface.register(SHARING, attend)
