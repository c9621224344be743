"""The policy network: a Hugging Face causal language model that returns log-probabilities of trained tokens only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import peft
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import MoeModelOutputWithPast

from learners.policy.attention import can_share
from trajectories.batch import PaddedBatch

LOGITS_AT_ONCE = 1 << 27
"""Most logits held at a time (512 MB in float32); beyond, the output head runs in pieces and is recomputed."""
PROBABILITIES_AT_ONCE = 1 << 22
"""Most probabilities held at a time while entropies are summed: few enough for a cache, enough for a GPU."""


class PolicyModel(nn.Module):
    """Wraps the language model, so that sharding sees one forward pass from token ids to log-probabilities.

    Attributes:
        lm: the model, or the PEFT model around it.
    """

    def __init__(self, lm: PreTrainedModel | peft.PeftModel, dtype: torch.dtype) -> None:
        super().__init__()
        self.lm = lm
        self._dtype = dtype

    @property
    def causal_lm(self) -> PreTrainedModel:
        """The language model itself; adapters live inside its layers."""
        lm = self.lm.get_base_model() if isinstance(self.lm, peft.PeftModel) else self.lm
        assert isinstance(lm, PreTrainedModel)
        return lm

    @property
    def layers(self) -> list[nn.Module]:
        """The decoder layers: the units of sharding."""
        return decoder_layers(self.causal_lm)

    @property
    def shares(self) -> bool:
        """Whether it takes batches that are `shared`."""
        return can_share(self.causal_lm.config)

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        return self._dtype

    @contextmanager
    def computing_in(self, dtype: torch.dtype) -> Iterator[None]:
        """Inside, matrices are multiplied in this precision; weights stay as they are."""
        before, self._dtype = self._dtype, dtype
        try:
            yield
        finally:
            self._dtype = before

    def without_adapter(self) -> AbstractContextManager[Any]:
        """Inside, the network is the base model."""
        return self.lm.disable_adapter() if isinstance(self.lm, peft.PeftModel) else nullcontext()

    def forward(self, batch: PaddedBatch) -> Tensor:
        """log p(trained token | tokens before it) at the batch's temperatures, float32 [N]."""
        with self._autocast(batch):
            selected, head = self._selected(batch)
            return selective_logprobs(selected, head, batch.targets, batch.temperature)

    def read(self, batch: PaddedBatch, entropy_gradient: bool) -> tuple[Tensor, Tensor]:
        """As `forward`, and the entropy of the distribution that each trained token was drawn from, in nats; both
        float32 [N], the entropy without gradient unless asked for."""
        with self._autocast(batch):
            selected, head = self._selected(batch)
            return selective_read(selected, head, batch.targets, batch.temperature, entropy_gradient)

    @contextmanager
    def final_states(self, batch: PaddedBatch, layer: str = "last", tokens: str = "last") -> Iterator[list[Tensor]]:
        """The state of each row, float32 [B, H], of the forward pass inside: after its last token, or the `mean` over
        its tokens; of the `last` layer, or of the `first`."""
        states: list[Tensor] = []
        lengths = torch.tensor(batch.lengths, device=batch.input_ids.device)

        def keep(_: nn.Module, __: Any, output: Any) -> None:
            if layer == "last":
                hidden = output.last_hidden_state.detach()
            else:
                hidden = (output[0] if isinstance(output, tuple) else output).detach()
            if batch.shared is not None:
                hidden = hidden[0][batch.shared.place]
            if tokens == "mean":
                real = torch.arange(hidden.shape[1], device=lengths.device) < lengths[:, None]
                states.append((hidden.float() * real[..., None]).sum(1) / lengths[:, None])
            else:
                states.append(hidden[torch.arange(len(lengths), device=lengths.device), lengths - 1].float())

        lm = self.causal_lm
        read = getattr(lm, lm.base_model_prefix) if layer == "last" else self.layers[0]
        handle = read.register_forward_hook(keep)
        try:
            yield states
        finally:
            handle.remove()

    def _autocast(self, batch: PaddedBatch) -> AbstractContextManager[Any]:
        return torch.autocast(batch.input_ids.device.type, self._dtype, enabled=self._dtype != torch.float32)

    def _selected(self, batch: PaddedBatch) -> tuple[Tensor, Head]:
        """Final states [N, H] that predict the trained tokens, and what the model makes of them."""
        lm, shared = self.causal_lm, batch.shared
        inputs: dict[str, Any] = {"input_ids": batch.input_ids}
        places = batch.positions
        if shared is not None:  # one row of the distinct tokens, each at its position in its sequence
            tokens, columns = batch.input_ids.flatten()[shared.first], shared.first % batch.input_ids.shape[1]
            inputs = {"input_ids": tokens[None], "position_ids": columns[None], "shared": shared}
            places = shared.place.flatten()[places]
        hidden = getattr(lm, lm.base_model_prefix)(**inputs, use_cache=False).last_hidden_state
        return hidden.flatten(0, 1).index_select(0, places), OwnHead(lm)


class Head(Protocol):
    """What makes logits [N, V] of final states [N, H]. An `nn.Linear` is one."""

    @property
    def out_features(self) -> int:
        """V."""
        ...

    def __call__(self, hidden: Tensor) -> Tensor: ...


class OwnHead:
    """All that a model's own forward pass does behind its backbone: the output matrix, and what its family scales or
    caps (Granite, Cohere, Gemma 2).

    It is that very pass, with the given states in the backbone's place, so that no family need be known here.
    """

    def __init__(self, lm: PreTrainedModel) -> None:
        self._lm = lm
        embeddings = lm.get_output_embeddings()
        assert isinstance(embeddings, nn.Linear)
        self.out_features = embeddings.out_features

    def __call__(self, hidden: Tensor) -> Tensor:
        lm, name = self._lm, self._lm.base_model_prefix
        backbone = getattr(lm, name)
        setattr(lm, name, _Given(hidden[None], backbone))
        try:
            return lm.forward(inputs_embeds=hidden[None], use_cache=False).logits[0]
        finally:
            setattr(lm, name, backbone)


class _Given(nn.Module):
    """A backbone whose work is done. So is that of each module in it (OPT asks its decoder); whatever else a model's
    forward pass looks up there (Falcon-H1 a factor) is the backbone's own."""

    def __init__(self, hidden: Tensor, backbone: nn.Module) -> None:
        super().__init__()
        self.__dict__["_backbone"] = backbone  # no module of this one: it has a place of its own
        self._output = _Output(last_hidden_state=hidden)  # pyright: ignore[reportArgumentType]

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.__dict__["_backbone"], name)
        return self if isinstance(found, nn.Module) else found

    def forward(self, *inputs: Any, **options: Any) -> MoeModelOutputWithPast:
        return self._output


class _Output(MoeModelOutputWithPast):
    """Final states and nothing else, whatever a family has beside them (GPT-2 cross-attentions)."""

    def __getattr__(self, name: str) -> None:
        return None


def decoder_layers(lm: PreTrainedModel) -> list[nn.Module]:
    """The decoder layers in their order, whatever a family calls their list."""
    return [module for module in lm.modules() if isinstance(module, GradientCheckpointingLayer)]


def selective_logprobs(hidden: Tensor, head: Head, targets: Tensor, temperature: Tensor) -> Tensor:
    """log softmax(head(hidden) / temperature) at the targets, float32 [N].

    Args:
        hidden: [N, H].
        targets: int64 [N].
        temperature: float32 [N], > 0.
    """

    def piece(hidden: Tensor, targets: Tensor, temperature: Tensor) -> tuple[Tensor]:
        return (-F.cross_entropy(_logits(hidden, head, temperature), targets, reduction="none"),)

    return _in_pieces(piece, head, (hidden, targets, temperature))[0]


def selective_read(
    hidden: Tensor, head: Head, targets: Tensor, temperature: Tensor, entropy_gradient: bool
) -> tuple[Tensor, Tensor]:
    """What `selective_logprobs` gives, to the bit, and the entropy of softmax(head(hidden) / temperature) in nats; both
    float32 [N], of one softmax."""

    def piece(hidden: Tensor, targets: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
        table = _logits(hidden, head, temperature).log_softmax(1)
        logprobs = -F.nll_loss(table, targets, reduction="none")
        return logprobs, entropy(table if entropy_gradient else table.detach())  # last: nothing recomputes it

    logprobs, entropies = _in_pieces(piece, head, (hidden, targets, temperature))
    return logprobs, entropies


def entropy(table: Tensor) -> Tensor:
    """-sum p log p of every row of log-probabilities, in nats, float [n] of [n, V].

    Two equally likely tokens have ln 2 = 0.693. Holds a bounded part of the probabilities at a time, and keeps nothing
    but the table for the backward pass.
    """
    return _Entropy.apply(table)  # pyright: ignore[reportReturnType]


class _Entropy(torch.autograd.Function):
    """d/dl of -exp(l) l is -exp(l) (l + 1): the log-softmax before it turns that into the gradient of the logits."""

    @staticmethod
    def forward(ctx: Any, table: Tensor) -> Tensor:
        ctx.save_for_backward(table)
        return torch.cat([-(piece.exp() * piece).sum(1) for piece in table.split(_rows(PROBABILITIES_AT_ONCE, table))])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (table,) = ctx.saved_tensors
        result = torch.empty_like(table)
        rows = _rows(PROBABILITIES_AT_ONCE, table)
        pieces = zip(result.split(rows), table.split(rows), gradient.split(rows), strict=True)
        for out, piece, weight in pieces:
            torch.exp(piece, out=out)
            out.mul_(piece + 1.0).mul_(-weight[:, None])
        return result


def _logits(hidden: Tensor, head: Head, temperature: Tensor) -> Tensor:
    return head(hidden).float().div_(temperature[:, None])


def _in_pieces(piece: Callable[..., tuple[Tensor, ...]], head: Head, columns: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What `piece` makes of the columns, [N, ...] each, holding at most `LOGITS_AT_ONCE` logits at a time."""
    rows = max(1, LOGITS_AT_ONCE // head.out_features)
    if len(columns[0]) <= rows:
        return piece(*columns)
    parts = zip(*(column.split(rows) for column in columns), strict=True)
    found = [checkpoint(piece, *part, use_reentrant=False) for part in parts]
    return tuple(torch.cat(column) for column in zip(*found, strict=True))  # pyright: ignore


def _rows(values: int, table: Tensor) -> int:
    """Rows of [n, V] that hold at most so many values."""
    return max(1, values // table.shape[1])
