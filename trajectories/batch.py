"""Padded batches: what training and probe run on. They hold every token, since the state after the last one counts."""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from trajectories.sharing import Shared, shared_tokens
from trajectories.types import Sequence


@dataclass(frozen=True, slots=True)
class PaddedBatch:
    """B sequences, padded on the right to T tokens, and their N trained tokens, flattened in row order.

    Attention is causal, so no token ever sees padding and no mask is needed.

    Attributes:
        lengths: tokens of each sequence.
        trained: trained tokens of each sequence; they sum to N.
        input_ids: int64 [B, T].
        positions: int64 [N], index into the flattened [B * T] of the position that predicts each trained token.
        targets: int64 [N], the trained tokens.
        rows: int64 [N], row of each trained token.
        temperature: float32 [N].
        behaviour: float32 [N], log-probability of each trained token under the policy that sampled it.
        shared: the distinct tokens, of which alone the network is computed; None: of all [B, T].
    """

    lengths: tuple[int, ...]
    trained: tuple[int, ...]
    input_ids: Tensor
    positions: Tensor
    targets: Tensor
    rows: Tensor
    temperature: Tensor
    behaviour: Tensor
    shared: Shared | None = None


def trained_tokens(sequence: Sequence) -> int:
    """Tokens that a sequence trains; its first token is predicted by nothing and never counts."""
    return int(sequence.trained[1:].sum())


def without_truncated(sequence: Sequence) -> Sequence:
    """The sequence with no trained token in responses that their budget cut off (overlong filtering of DAPO)."""
    if not any(turn.truncated for turn in sequence.turns):
        return sequence
    trained = sequence.trained.copy()
    for turn in sequence.turns:
        if turn.truncated:
            trained[turn.start : turn.end] = False
    return replace(sequence, trained=trained)


def collate(sequences: Many[Sequence], device: torch.device, share: bool = False) -> PaddedBatch:
    """The batch of some sequences, in their order, on `device`.

    Args:
        share: find the tokens that `plan_passes` put them together for.
    """
    lengths = tuple(len(sequence.token_ids) for sequence in sequences)
    width = max(lengths)
    input_ids = np.zeros((len(sequences), width), np.int64)
    for row, sequence in enumerate(sequences):
        input_ids[row, : lengths[row]] = sequence.token_ids
    at = [np.flatnonzero(sequence.trained[1:]) for sequence in sequences]
    rows = np.repeat(np.arange(len(sequences)), [len(predicting) for predicting in at])
    flat = rows * width + np.concatenate(at)
    temperature = np.array([sequence.temperature for sequence in sequences], np.float32)[rows]
    behaviour = np.concatenate([sequence.logprobs[1:][sequence.trained[1:]] for sequence in sequences])
    return PaddedBatch(
        lengths=lengths,
        trained=tuple(len(predicting) for predicting in at),
        input_ids=torch.from_numpy(input_ids).to(device),
        positions=torch.from_numpy(flat).to(device),
        targets=torch.from_numpy(input_ids.ravel()[flat + 1]).to(device),
        rows=torch.from_numpy(rows).to(device),
        temperature=torch.from_numpy(temperature).to(device),
        behaviour=torch.from_numpy(behaviour).to(device),
        shared=shared_tokens(sequences, device) if share else None,
    )
