"""From training sequences to padded micro-batches, and the split of sequences over workers."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

import router.batch
from router.batch import ProbeBatch
from trajectories.types import Sequence


@dataclass(frozen=True, slots=True)
class MicroBatch(ProbeBatch):
    """What the probe runs on, and what objectives compare with.

    Attributes:
        behaviour: float32 [N], log-probability of each trained token under the policy that sampled it.
    """

    behaviour: Tensor


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
    batch = router.batch.collate(sequences, device)
    behaviour = np.concatenate([sequence.logprobs[1:][sequence.trained[1:]] for sequence in sequences])
    columns = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return MicroBatch(**columns, behaviour=torch.from_numpy(behaviour).to(device))
