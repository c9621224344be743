"""What a score goes along with, and how stable the order is that it gives: Spearman's rank correlations."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import numpy.typing as npt
from scipy import stats

from trajectories.errors import UserError

Column = Mapping[str, float]
"""A value for each trajectory, by its id."""


def spearman(one: Column, other: Column) -> float:
    """Rank correlation over the trajectories that both know, in [-1, 1]; NaN where a side has one value only.

    spearman({"a": 1, "b": 2, "c": 3}, {"a": 10, "b": 30, "c": 20, "d": 0}) is 0.5.

    Raises:
        UserError: fewer than three trajectories in common.
    """
    common = sorted(set(one) & set(other))
    if len(common) < 3:
        raise UserError(f"a rank correlation needs three trajectories in common, there are {len(common)}")
    ours, theirs = ([side[name] for name in common] for side in (one, other))
    if len(set(ours)) == 1 or len(set(theirs)) == 1:
        return float("nan")
    return float(np.corrcoef(stats.rankdata(ours), stats.rankdata(theirs))[0, 1])


def goes_along(score: Column, others: Mapping[str, Column]) -> dict[str, float]:
    """Rank correlation of a score with each of some other columns, such as loss, length and pass rate."""
    return {name: spearman(score, other) for name, other in others.items()}


def rank_stability(scores: Mapping[str, Column]) -> dict[tuple[str, str], float]:
    """Rank correlation of every two scorings of a corpus: by models of several seeds, or of several steps."""
    return {(first, second): spearman(scores[first], scores[second]) for first, second in combinations(scores, 2)}


def agreement(first: Column, second: Column) -> float:
    """Share of the common trajectories that median splits by the two send the same way; 0.5 is chance."""
    common = sorted(set(first) & set(second))
    sides = [_upper(np.array([side[name] for name in common])) for side in (first, second)]
    return float((sides[0] == sides[1]).mean())


def _upper(values: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    return values > np.sort(values)[(len(values) + 1) // 2 - 1]
