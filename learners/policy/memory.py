"""How much memory a learner worker's GPU needs, from a model's configuration alone: pure functions, in bytes.

What autograd keeps is counted for decoders of Llama's kind: norms in float32, attention that stores no scores (flash),
a gated feed-forward part. Only large terms are counted; the CUDA context and an allocator's waste are `SPARE`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from learners.learner_settings import LoraSettings, OptimizerSettings, PolicySettings
from learners.policy.model import LOGITS_AT_ONCE, decoder_layers

SPARE = 2 << 30
"""Bytes of a GPU that no plan may count on. An estimate."""
MASTER = 4
"""Bytes of a weight that trains, of its gradient, and of each of Adam's two moments: float32."""
WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of a number in the precision of the computation."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What the memory of a decoder depends on.

    Attributes:
        weights: of the whole model, tied ones once; `layer_weights` of its largest decoder layer.
        hidden, intermediate: widths of the residual stream and of the feed-forward part that one token runs through.
        queries, keys: width of all query heads together, and of all key heads; `key_heads` counts these.
        linear: (inputs, outputs) of every linear layer by the last part of its name, for adapters.
    """

    weights: int
    layer_weights: int
    layers: int
    hidden: int
    intermediate: int
    queries: int
    keys: int
    key_heads: int
    vocabulary: int
    linear: dict[str, tuple[tuple[int, int], ...]]

    @property
    def heads(self) -> int:
        """Query heads."""
        return self.queries * self.key_heads // self.keys

    @property
    def cache_numbers(self) -> int:
        """Numbers that an engine's KV cache holds of one token."""
        return 2 * self.layers * self.keys


def shape_of(lm: PreTrainedModel) -> Shape:
    """The shape of a causal language model, which may be without weights (`learners.policy.outline`)."""
    config = lm.config
    layers = decoder_layers(lm)
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    linear: dict[str, list[tuple[int, int]]] = {}
    for name, module in lm.named_modules():
        if isinstance(module, nn.Linear):
            linear.setdefault(name.rpartition(".")[2], []).append((module.in_features, module.out_features))
    key_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    experts = getattr(config, "num_experts_per_tok", None)
    dense = getattr(config, "intermediate_size", None) or 4 * config.hidden_size  # GPT-2 and OPT do not say it
    width = getattr(config, "moe_intermediate_size", None) or dense
    return Shape(
        weights=_count(lm.parameters()),
        layer_weights=max(_count(layer.parameters()) for layer in layers),
        layers=len(layers),
        hidden=config.hidden_size,
        intermediate=experts * width if experts else config.intermediate_size,
        queries=head * config.num_attention_heads,
        keys=head * key_heads,
        key_heads=key_heads,
        vocabulary=config.vocab_size,
        linear={name: tuple(sizes) for name, sizes in linear.items()},
    )


def adapter_weights(shape: Shape, lora: LoraSettings) -> int:
    """Weights of all adapters: rank x (inputs + outputs) of each adapted layer."""
    return sum(lora.rank * (i + o) for name in lora.target_modules for i, o in shape.linear.get(name, ()))


def saved_by_layer(shape: Shape, width: int, autocast: bool = False) -> int:
    """Bytes a token that autograd keeps of one decoder layer, at `width` bytes a number.

    Two norms, each the input in float32, the normalised value and the result. Attention: rotated queries and keys,
    values, output. Feed-forward: gate, its activation, up, and their product.

    Args:
        autocast: weights are float32 and the computation is not (one worker): what lies between layers is float32 too,
            and each of the five matrices behind a norm keeps a copy of the result.
    """
    norms = (16 + 5 * width if autocast else 8 + 4 * width) * shape.hidden
    return norms + width * (2 * shape.queries + 2 * shape.keys + 4 * shape.intermediate)


def activations(shape: Shape, width: int, tokens: int, checkpointing: bool, autocast: bool = False) -> int:
    """Bytes of what the backward pass needs of the decoder layers, of one pass of so many tokens (padding counted).

    With `checkpointing` the input of every layer, and one layer that is computed again.
    """
    layer = saved_by_layer(shape, width, autocast)
    between = (4 if autocast else width) * shape.hidden
    return tokens * (shape.layers * between + layer if checkpointing else shape.layers * layer)


def logits(shape: Shape, width: int, tokens: int) -> int:
    """Bytes of the output head's work, if every token trains: logits, the same in float32, their log-softmax, and its
    gradient. The head runs over at most `LOGITS_AT_ONCE` logits at a time."""
    return min(tokens * shape.vocabulary, max(LOGITS_AT_ONCE, shape.vocabulary)) * (width + 3 * 4)


def learner_memory(
    shape: Shape,
    policy: PolicySettings,
    optimizer: OptimizerSettings,
    workers: int,
    reference: bool = False,
    together: int = 0,
) -> dict[str, int]:
    """Bytes on the GPU of each of `workers` learner workers, by what they are for.

    Args:
        reference: the initial weights are kept too (`grpo.kl_weight` > 0 without adapters).
        together: tokens whose passes run before any of them is undone (a group's, for the Conductor); 0: each pass by
            itself.
    """
    width, lora = WIDTHS[policy.dtype], policy.lora
    trained = adapter_weights(shape, lora) if lora else shape.weights
    frozen = (width * shape.weights if lora else 0) + (MASTER * shape.weights if reference and not lora else 0)
    rest = max(0, shape.weights - shape.layers * shape.layer_weights)
    between = rest + 2 * shape.layer_weights  # what is in no layer stays gathered in a pass, layers come two at a time
    copied = trained if width != MASTER else 0  # by autocast, on one worker
    autocast = workers == 1 and not lora and width != MASTER
    whole = workers > 1 and optimizer.reduce_gradients == "step"
    held = max(optimizer.token_budget, together)
    passes = -(-held // optimizer.token_budget)
    largest = max(shape.layer_weights, rest) if workers > 1 and not lora else 0  # what is reduced at a time
    return {
        "weights": (MASTER * trained + frozen) // workers,
        "weights in use": width * (between if workers > 1 else copied),
        "gradients": MASTER * (trained // workers + (trained if whole else 0) + largest),
        "optimiser": 2 * MASTER * trained // workers,
        "activations": activations(shape, width, held, policy.gradient_checkpointing, autocast),
        "logits": passes * logits(shape, width, optimizer.token_budget),
    }


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)
