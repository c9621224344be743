"""Which sequences share a padded pass, and which worker takes them. Training and probe plan alike."""

from __future__ import annotations

from collections.abc import Sequence as Many

import numpy as np

from trajectories.types import Sequence


def plan_batches(lengths: Many[int], token_budget: int) -> list[list[int]]:
    """Indices of similar length together, rows * longest <= token_budget; a longer one goes alone.

    plan_batches([5, 2, 5, 2, 9], 10) is [[4], [0, 2], [1, 3]].
    """
    plan: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not plan or (len(plan[-1]) + 1) * lengths[plan[-1][0]] > token_budget:
            plan.append([])
        plan[-1].append(index)
    return plan


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


IDLE = Sequence(
    sequence_id="idle",
    episode_id="",
    group_id="",
    token_ids=np.zeros(2, np.int32),
    trained=np.array([False, True]),
    logprobs=np.zeros(2, np.float32),
    turns=(),
    version_spans=(),
    temperature=1.0,
)
"""The least that a pass can run on: for a worker that has no more sequences while others still gather its weights."""
