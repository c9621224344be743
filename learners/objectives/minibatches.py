"""Which examples of a learner step share an optimiser step."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Many
from itertools import pairwise

Groups = frozenset[str]


def dealt(groups: Iterable[str], parts: int, seed: tuple[int, ...]) -> list[Groups]:
    """The groups in so many parts of equal size, give or take one, as the seed alone decides: workers that see the
    groups in different order deal alike. Parts beyond the number of groups are empty."""
    order = sorted(set(groups), key=lambda group: hashlib.blake2b(repr((seed, group)).encode()).digest())
    ends = [len(order) * part // parts for part in range(parts + 1)]
    return [frozenset(order[start:end]) for start, end in pairwise(ends)]


def walk(
    compared: Iterable[str], imitated: Iterable[str], minibatches: int, epochs: int, seed: tuple[int, ...]
) -> list[Groups]:
    """The groups of every optimiser step of a batch: each epoch deals them anew into minibatches.

    A batch with fewer groups to compare than minibatches has one minibatch for each of them, and always one.

    Args:
        compared: ids of the groups that GRPO trains on any worker.
        imitated: those that SFT trains; the ones that are not compared too are spread over the minibatches.
    """
    compared = set(compared)
    parts = max(1, min(minibatches, len(compared)))
    return [
        ours | theirs
        for epoch in range(epochs)
        for ours, theirs in zip(
            dealt(compared, parts, (*seed, epoch)), dealt(set(imitated) - compared, parts, (*seed, epoch)), strict=True
        )
    ]


def averaged(metrics: Many[Mapping[str, float]], epochs: int) -> dict[str, float]:
    """The metrics of a learner step, of those that `PolicyShard.step` gave: means over the optimiser steps that have
    them, counts of tokens and sequences as the batch has them, and `optimiser_steps`."""
    result = {"optimiser_steps": float(sum("lr" in step for step in metrics))}
    for name in {name: None for step in metrics for name in step}:
        values = [step[name] for step in metrics if name in step]
        counts = name.rpartition("/")[2] in ("trained_tokens", "tokens", "sequences")
        result[name] = sum(values) / (epochs if counts else len(values))
    return result
