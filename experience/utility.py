"""What experience is worth: success with it less success without it, under one policy, task by task.

A share of every group plays without experience (D2Skill, arXiv 2603.28716, pairs rollouts so). The difference is the
utility of what was in the prompt. An item's utility is that of the pairs that showed it: by it items are ranked, with
time its evidence fades, and what does harm is dropped or rolled back (`experience.keeper`). Pure functions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from experience.records import Experience, Item

Z_95 = 1.959963984540054
PSEUDO_PAIRS = 2.0
"""Pairs that the interval adds: half a one won, half a one lost, one without a difference."""
LEAST_PAIRS = 6.0
"""Pairs without which nothing is called harmful: of five that all went wrong a sign test is not yet sure (p 0.062)."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One task, played with and without experience by the same weights.

    Attributes:
        item_ids: of the items in the prompt of the one half.
        with_experience: share of that half's episodes that succeeded, in [0, 1]; `without` the same of the other half.
        age: rounds, in whatever unit the half-life has, since it was played.
    """

    item_ids: frozenset[str]
    with_experience: float
    without: float
    age: float = 0.0

    @property
    def difference(self) -> float:
        return self.with_experience - self.without


@dataclass(frozen=True, slots=True)
class Utility:
    """A difference of success in [-1, 1], with its 95 % interval and the evidence behind it, in pairs."""

    difference: float
    low: float
    high: float
    pairs: float

    def __str__(self) -> str:
        return f"{self.difference:+.3f} [{self.low:+.3f}, {self.high:+.3f}] of {self.pairs:.1f} pairs"


def utility(pairs: Iterable[Pair], half_life: float = math.inf) -> Utility:
    """The mean difference of pairs, each weighed by w = 2^(-age / half_life).

    The interval is Agresti and Min's for paired proportions (Statistics in Medicine 24, 2005), extended to shares and
    weights: with n = sum w + 2, m = sum w d / n and v = (sum w d² + 1) / n - m², it is m ± 1.96 sqrt(v / n), cut to
    [-1, 1]. So a few pairs that all agree are not yet certain, and as evidence ages the interval widens again.

    >>> print(utility([Pair(frozenset(), 1.0, 0.0)] * 2))
    +1.000 [-0.193, +1.000] of 2.0 pairs
    >>> print(utility([Pair(frozenset(), 1.0, 0.0)] * 12))
    +1.000 [+0.626, +1.000] of 12.0 pairs
    """
    weighed = [(2.0 ** (-pair.age / half_life), pair.difference) for pair in pairs]
    total = math.fsum(weight for weight, _ in weighed)
    first = math.fsum(weight * difference for weight, difference in weighed)
    second = math.fsum(weight * difference**2 for weight, difference in weighed)
    n = total + PSEUDO_PAIRS
    middle = first / n
    half = Z_95 * math.sqrt(max(0.0, (second + 1.0) / n - middle**2) / n)
    return Utility(first / total if total else 0.0, max(-1.0, middle - half), min(1.0, middle + half), total)


def item_utilities(item_ids: Iterable[str], pairs: Sequence[Pair], half_life: float = math.inf) -> dict[str, Utility]:
    """The utility of every item: of the pairs that showed it."""
    return {name: utility((pair for pair in pairs if name in pair.item_ids), half_life) for name in item_ids}


def ranked(items: Iterable[Item], utilities: Mapping[str, Utility]) -> tuple[Item, ...]:
    """Most useful first, by the middle of the interval, which draws items with little evidence towards 0; among equals
    the order stays. An item without any evidence has 0."""

    def worth(item: Item) -> float:
        known = utilities.get(item.id)
        return -(known.low + known.high) / 2 if known else 0.0

    return tuple(sorted(items, key=worth))


def is_harmful(known: Utility | None) -> bool:
    """Whether the whole interval lies below 0, on `LEAST_PAIRS` pairs or more."""
    return known is not None and known.pairs >= LEAST_PAIRS and known.high < 0.0


def without_harm(experience: Experience, utilities: Mapping[str, Utility]) -> Experience:
    """The experience without the items that do harm, in its order."""

    def kept(items: Iterable[Item]) -> tuple[Item, ...]:
        return tuple(item for item in items if not is_harmful(utilities.get(item.id)))

    return Experience(kept(experience.suggestions), kept(experience.procedure))


def must_roll_back(before: Sequence[float], after: Sequence[float]) -> bool:
    """Whether a new state of a type did worse than the one before it on the same replayed tasks, beyond chance.

    Both are the share of successes at each task, in the same order.
    """
    pairs = [Pair(frozenset(), now, then) for then, now in zip(before, after, strict=True)]
    return is_harmful(utility(pairs))
