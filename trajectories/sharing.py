"""What sequences begin with alike, which a causal network needs to compute once for all of them.

What it makes of a token depends on that token and on those before it. The members of a group begin with the same system
message, task and first observation, and go on alike while they choose the same actions; the turns of a windowed episode
share system message and task.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence as Many
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trajectories.packing import plan_batches
from trajectories.types import Sequence

WORTH = 8
"""A sequence shares a pass with the one before it for the sake of an eighth of its tokens, not of fewer."""
SPREAD = 2
"""Most tokens of a pass, in token budgets, if those that are shared count in each of their sequences, as they do for
attention."""
PADDING = 8
"""Attention pads a sequence by an eighth of its longer neighbour at most."""


@dataclass(frozen=True, slots=True)
class Shared:
    """The L distinct tokens of a padded batch [B, T], row after row, each where it comes up first.

    Of the rows [5, 6, 7] and [5, 6, 8, 9] these are 5 6 7 8 9; `first` is [0, 1, 2, 6, 7], and `place` is
    [[0, 1, 2, 0], [0, 1, 3, 4]].

    Attributes:
        first: int64 [L], index into the flattened [B * T] of each distinct token.
        place: int64 [B, T], index among the distinct tokens of each token of the batch; 0 for padding.
        bundles: int64 [b, t] each, the rows of `place` by length, similar ones together and no longer than need be.
        bundled: int64 [L], like `first`, in the flattened bundles one after the other.
    """

    first: Tensor
    place: Tensor
    bundles: tuple[Tensor, ...]
    bundled: Tensor


def plan_passes(sequences: Many[Sequence], token_budget: int, share: bool) -> list[list[int]]:
    """Indices of the sequences of each pass. Those that begin alike come together, at most `token_budget` distinct
    tokens in a pass; those that share too little with others, or all if not `share`, are padded (`plan_batches`).

    With letters for tokens, plan_passes([aabb, cc, aabc, aab, d], 6, True) is [[3, 0, 2], [1, 4]].
    """
    shared = [rows for rows in _begun_alike(sequences, token_budget) if len(rows) > 1] if share else []
    alone = sorted(set(range(len(sequences))).difference(*shared))
    padded = plan_batches([len(sequences[index].token_ids) for index in alone], token_budget)
    return shared + [[alone[at] for at in rows] for rows in padded]


def _begun_alike(sequences: Many[Sequence], token_budget: int) -> list[list[int]]:
    """The sequences in the alphabetical order of their tokens, where each shares most with its neighbours, cut where it
    is too little, or a pass is full."""
    cut: list[list[int]] = []
    distinct = tokens = 0
    for index in sorted(range(len(sequences)), key=lambda at: sequences[at].token_ids.astype(">u4").tobytes()):
        length = len(sequences[index].token_ids)
        start = common_start(sequences[cut[-1][-1]], sequences[index]) if cut else 0
        full = distinct + length - start > token_budget or tokens + length > SPREAD * token_budget
        if not cut or full or start * WORTH < length:
            cut.append([])
            distinct = tokens = start = 0
        cut[-1].append(index)
        distinct, tokens = distinct + length - start, tokens + length
    return cut


def shared_tokens(sequences: Many[Sequence], device: torch.device) -> Shared | None:
    """The distinct tokens of sequences in the order of `plan_passes`; None where one shares too little with the one
    before it."""
    lengths = [len(sequence.token_ids) for sequence in sequences]
    starts = [common_start(*pair) for pair in itertools.pairwise(sequences)]
    if not starts or any(start * WORTH < length for start, length in zip(starts, lengths[1:], strict=True)):
        return None
    place, count = np.zeros((len(lengths), max(lengths)), np.int64), 0
    for row, (start, length) in enumerate(zip([0, *starts], lengths, strict=True)):
        place[row, :start] = place[row - 1, :start]
        place[row, start:length] = np.arange(count, count + length - start)
        count += length - start
    bundles = [place[rows, : lengths[rows[0]]] for rows in _bundles(lengths)]
    tensors = [_first(place), place, *bundles, _first(*bundles)]
    first, place, *rows, bundled = (torch.from_numpy(array).to(device) for array in tensors)
    return Shared(first, place, tuple(rows), bundled)


def _bundles(lengths: Many[int]) -> list[list[int]]:
    """Rows of similar length, the longest first."""
    found: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if not found or lengths[row] * PADDING < lengths[found[-1][0]] * (PADDING - 1):
            found.append([])
        found[-1].append(row)
    return found


def _first(*places: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Where each place comes up first in the flattened arrays. Padding never does: all rows begin with place 0."""
    return np.unique(np.concatenate([array.ravel() for array in places]), return_index=True)[1]


def common_start(left: Sequence, right: Sequence) -> int:
    """Tokens that both begin with: 2 of [5, 6, 7] and [5, 6, 8, 9]."""
    count = min(len(left.token_ids), len(right.token_ids))
    differ = np.flatnonzero(left.token_ids[:count] != right.token_ids[:count])
    return int(differ[0]) if len(differ) else count
