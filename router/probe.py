"""The gradient probe: how large each sequence's gradient is in every projection matrix, without an optimiser step.

One interface, `Probe`, and two ways to the same numbers: `sequential` is the reference, `batched` the fast one. With
adapters active, both measure the base model's matrices, as those adapters shape their gradients. The loss of a sequence
is the mean of -log p over its trained tokens, at its temperature. In windowed mode a sequence is one turn;
`router.tables.measured` averages over the turns of a trajectory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Sequence as Many
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from router.taps import NormRecorder
from trajectories.batch import PaddedBatch, collate, trained_tokens
from trajectories.errors import UserError
from trajectories.packing import IDLE, plan_batches
from trajectories.types import Sequence

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


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What one pass over S sequences yields, on the CPU, in the order in which the sequences were given.

    Nothing is judged here: a gradient that vanished or is not finite shows in `norms`, where `geometry` refuses it.

    Attributes:
        norms: float32 [S, 7L], Frobenius norms of the gradients, layer by layer in the order of `PROJECTIONS`.
        losses: float32 [S], mean -log p over the trained tokens.
        hidden: float32 [S, H], the final layer's state after the last token.
        logprobs: float32 [T] each, log p of every trained token, 0 elsewhere.
    """

    sequence_ids: tuple[str, ...]
    norms: Tensor
    losses: Tensor
    hidden: Tensor
    logprobs: tuple[npt.NDArray[np.float32], ...]

    def take(self, rows: Many[int]) -> ProbeResult:
        """Some of the sequences, in the order of `rows`."""
        at = torch.tensor(rows, dtype=torch.int64)
        return ProbeResult(
            tuple(self.sequence_ids[row] for row in rows),
            self.norms[at],
            self.losses[at],
            self.hidden[at],
            tuple(self.logprobs[row] for row in rows),
        )


def concatenated(parts: Many[ProbeResult]) -> ProbeResult:
    """The sequences of all parts, one part after the other."""
    return ProbeResult(
        tuple(name for part in parts for name in part.sequence_ids),
        torch.cat([part.norms for part in parts]),
        torch.cat([part.losses for part in parts]),
        torch.cat([part.hidden for part in parts]),
        tuple(values for part in parts for values in part.logprobs),
    )


def check(sequences: Many[Sequence]) -> None:
    """Refuse what no gradient can be taken of.

    Raises:
        UserError: there is no sequence, or one has no trained token after its first.
    """
    if not sequences:
        raise UserError("there is nothing to probe: the corpus holds no sequence")
    for sequence in sequences:
        if not trained_tokens(sequence):
            raise UserError(
                f"trajectory {sequence.sequence_id} has no trained token that others precede; drop it from the corpus"
            )


Probe = Callable[[PolicyNetwork, Many[Sequence]], ProbeResult]


def sequential(policy: PolicyNetwork, sequences: Many[Sequence]) -> ProbeResult:
    """One sequence at a time, autograd's own weight gradients: the reference.

    Raises:
        UserError: nothing to probe, a sequence without trained tokens, or a model that cannot be probed.
    """
    check(sequences)
    return _probe(policy, sequences, [[index] for index in range(len(sequences))], _autograd_pass)


def batched(policy: PolicyNetwork, sequences: Many[Sequence], token_budget: int = 8192) -> ProbeResult:
    """Padded batches, one forward and backward pass each, in which no weight gradient is computed.

    Args:
        token_budget: tokens (padding counted) in one pass; a longer sequence goes alone. Changes memory and speed only.
            Tuning: as much as fits on a GPU; some 1,000 on a CPU, whose caches larger passes leave.
    Raises:
        UserError: nothing to probe, a sequence without trained tokens, or a model that cannot be probed.
    """
    check(sequences)
    return _probe(policy, sequences, _plan(sequences, token_budget), _tapped_pass)


def batched_share(
    policy: PolicyNetwork,
    sequences: Many[Sequence],
    token_budget: int,
    most: Callable[[int], int],
) -> ProbeResult:
    """`batched` by one of several workers, each with sequences of its own, none included.

    A sharded model gathers its layers on every pass, so all workers run as many passes: short ones run idle. No
    gradient is reduced, since none of a parameter is computed.

    Args:
        sequences: already checked, by all workers alike.
        most: the largest of the workers' values.
    """
    plan = _plan(sequences, token_budget)
    idle = most(len(plan)) - len(plan)
    result = _probe(policy, sequences, plan, _tapped_pass)
    if idle:
        _probe(policy, [IDLE], [[0]] * idle, _tapped_pass)
    return result


def _plan(sequences: Many[Sequence], token_budget: int) -> list[list[int]]:
    return plan_batches([len(sequence.token_ids) for sequence in sequences], token_budget)


def projections(policy: PolicyNetwork) -> dict[str, nn.Linear]:
    """The 7L linear layers by name ("0.self_attn.q_proj"), in the order of the columns; of adapted ones, the base.

    Raises:
        UserError: a decoder layer is not built as in Llama, Qwen2 and Qwen3.
    """
    found = {}
    for number, layer in enumerate(policy.layers):
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


Pass = Callable[[PolicyNetwork, PaddedBatch, list[nn.Linear]], tuple[Tensor, Tensor]]
"""-> log-probabilities [N] and norms [B, 7L] of a batch."""


@torch.enable_grad()
def _probe(policy: PolicyNetwork, sequences: Many[Sequence], plan: list[list[int]], run: Pass) -> ProbeResult:
    layers = list(projections(policy).values())
    _refuse_dropout(policy.causal_lm)
    norms, losses = torch.zeros(len(sequences), len(layers)), torch.zeros(len(sequences))
    hidden = torch.zeros(len(sequences), policy.causal_lm.config.hidden_size)
    logprobs = [np.zeros(len(sequence.token_ids), np.float32) for sequence in sequences]
    for rows in plan:
        batch = collate([sequences[index] for index in rows], layers[0].weight.device)
        with policy.final_states(batch) as states:
            values, measured = run(policy, batch, layers)
        norms[rows] = measured.cpu()
        losses[rows], hidden[rows] = _losses(values.detach(), batch).cpu(), states[0].cpu()
        for index, tokens in zip(rows, values.detach().cpu().split(batch.trained), strict=True):
            logprobs[index][1:][sequences[index].trained[1:]] = tokens
    return ProbeResult(tuple(s.sequence_id for s in sequences), norms, losses, hidden, tuple(logprobs))


def _autograd_pass(policy: PolicyNetwork, batch: PaddedBatch, layers: list[nn.Linear]) -> tuple[Tensor, Tensor]:
    weights = [layer.weight for layer in layers]
    with _trainable(weights):
        logprobs = policy(batch)
        gradients = torch.autograd.grad(_losses(logprobs, batch).sum(), weights)
    return logprobs, torch.stack([gradient.float().norm() for gradient in gradients])[None]


def _tapped_pass(policy: PolicyNetwork, batch: PaddedBatch, layers: list[nn.Linear]) -> tuple[Tensor, Tensor]:
    recorder = NormRecorder(batch.lengths, layers)
    with recorder.recording(), _embeddings(policy.causal_lm) as embedded:
        logprobs = policy(batch)
        # Only what lies between the loss and the embeddings is computed: activations, and no parameter.
        torch.autograd.grad(_losses(logprobs, batch).sum(), embedded)
    return logprobs, recorder.norms()


def _losses(logprobs: Tensor, batch: PaddedBatch) -> Tensor:
    """Mean -log p over the trained tokens of each row, [B]."""
    sums = logprobs.new_zeros(len(batch.lengths)).index_add(0, batch.rows, -logprobs)
    return sums / torch.tensor(batch.trained, device=sums.device)


@contextmanager
def _embeddings(lm: PreTrainedModel) -> Iterator[list[Tensor]]:
    """The embedded tokens of the forward pass inside, a leaf from which gradients can be asked."""
    leaves: list[Tensor] = []

    def cut(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        leaves.append(output.detach().requires_grad_())
        return leaves[-1]

    handle = lm.get_input_embeddings().register_forward_hook(cut)
    try:
        yield leaves
    finally:
        handle.remove()


@contextmanager
def _trainable(weights: Many[Tensor]) -> Iterator[None]:
    """Lets autograd differentiate by frozen weights too."""
    before = [weight.requires_grad for weight in weights]
    try:
        for weight in weights:
            weight.requires_grad_(True)
        yield
    finally:
        for weight, flag in zip(weights, before, strict=True):
            weight.requires_grad_(flag)


def _refuse_dropout(lm: PreTrainedModel) -> None:
    for name, module in lm.named_modules():
        rate = module.p if isinstance(module, nn.Dropout) else getattr(module, "attention_dropout", 0.0)
        if module.training and rate:
            raise UserError(f"{name} drops out a share of {rate}; set it to 0 or call eval() before the probe")
