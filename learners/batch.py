"""From training sequences to padded micro-batches, and the split of sequences over workers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trajectories.types import Sequence


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """B sequences, padded on the right to L + 1 tokens, and their N trained tokens, flattened in row order.

    Attention is causal, so no trained token ever sees padding and no mask is needed.

    Attributes:
        input_ids: int64 [B, L], all tokens but each sequence's last.
        positions: int64 [N], index into the flattened [B * L] of the position that predicts each trained token.
        targets: int64 [N], the trained tokens.
        rows: int64 [N], row of each trained token.
        behaviour: float32 [N], log-probability under the policy that sampled it.
        temperature: float32 [N].
    """

    input_ids: Tensor
    positions: Tensor
    targets: Tensor
    rows: Tensor
    behaviour: Tensor
    temperature: Tensor


def trained_tokens(sequence: Sequence) -> int:
    """Tokens that a sequence trains; its first token is predicted by nothing and never counts."""
    return int(sequence.trained[1:].sum())


def split_over_workers(lengths: list[int], workers: int) -> list[list[int]]:
    """Indices for each worker: longest first, each to the worker with the fewest tokens. A worker may get none.

    split_over_workers([5, 2, 5, 2, 9], 2) is [[4, 1], [0, 2, 3]].
    """
    shares: list[list[int]] = [[] for _ in range(workers)]
    loads = [0] * workers
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        worker = loads.index(min(loads))
        shares[worker].append(index)
        loads[worker] += lengths[index]
    return shares


def collate(sequences: list[Sequence], device: torch.device) -> MicroBatch:
    """The micro-batch of some sequences, in their order, on `device`."""
    width = max(max(len(sequence.token_ids) for sequence in sequences) - 1, 1)
    input_ids = np.zeros((len(sequences), width), np.int64)
    for row, sequence in enumerate(sequences):
        input_ids[row, : len(sequence.token_ids) - 1] = sequence.token_ids[:-1]
    trained = [np.flatnonzero(sequence.trained[1:]) for sequence in sequences]
    counts = [len(positions) for positions in trained]

    def flat(parts: Iterable[np.ndarray], dtype: torch.dtype) -> Tensor:
        return torch.from_numpy(np.concatenate(list(parts))).to(device=device, dtype=dtype)

    pairs = list(zip(sequences, trained, strict=True))
    temperatures = np.array([sequence.temperature for sequence in sequences])
    return MicroBatch(
        input_ids=torch.from_numpy(input_ids).to(device),
        positions=flat((row * width + at for row, at in enumerate(trained)), torch.int64),
        targets=flat((sequence.token_ids[at + 1] for sequence, at in pairs), torch.int64),
        rows=torch.from_numpy(np.repeat(np.arange(len(sequences)), counts)).to(device),
        behaviour=flat((sequence.logprobs[at + 1] for sequence, at in pairs), torch.float32),
        temperature=flat([np.repeat(temperatures, counts)], torch.float32),
    )
