"""Concentration statistics: how unevenly a trajectory's gradient is spread over the weight matrices.

Each takes `norms` [S, P], the Frobenius norms of P >= 2 matrices for S trajectories (torch or numpy), and returns one
float64 value per trajectory, [S], on the device of `norms`. All are invariant to the scale of a row and to the order of
its entries. `ids` name the trajectories in errors; without them a row's number does.

Raises, all of them:
    UserError: a row is not finite, has a negative entry or is all zero, and the message names its trajectory; or
        `norms` is no [S, P >= 2] array.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Sequence as Many
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from trajectories.errors import UserError

Norms = Tensor | npt.NDArray[Any]
Statistic = Callable[[Norms, Many[str] | None], Tensor]


def gini(norms: Norms, ids: Many[str] | None = None) -> Tensor:
    """sum_k (2k - P - 1) x_k / (P sum_k x_k) over ascending x_k, k = 1..P; in [0, 1 - 1/P], 0 if all are equal.

    gini of (1, 2, 3) is (-2 * 1 + 0 * 2 + 2 * 3) / (3 * 6) = 2/9.
    """
    ascending = _checked(norms, ids).sort(dim=1).values
    count = ascending.shape[1]
    rank = torch.arange(1, count + 1, dtype=torch.float64, device=ascending.device)
    # Equal entries cancel exactly in theory, by rounding not quite: never below the least value.
    return (ascending @ (2 * rank - count - 1) / (count * ascending.sum(1))).clamp(min=0.0)


def kurtosis(norms: Norms, ids: Many[str] | None = None) -> Tensor:
    """m4 / m2^2 with central moments m_p = mean (x - mean)^p (not "excess"); in [1, P - 2 + 1 / (P - 1)].

    Raises:
        UserError: also where all entries of a row are equal, since m2 = 0.
    """
    x = _checked(norms, ids)
    _refuse(x.amax(1) == x.amin(1), ids, "equal norms for all matrices", "its kurtosis is undefined: use gini")
    deviation = x - x.mean(1, keepdim=True)
    return deviation.pow(4).mean(1) / deviation.square().mean(1).square()


def coefficient_of_variation(norms: Norms, ids: Many[str] | None = None) -> Tensor:
    """std / mean with the population's standard deviation; in [0, sqrt(P - 1)], 0 if all are equal."""
    x = _checked(norms, ids)
    return x.std(1, correction=0) / x.mean(1)


def hoyer(norms: Norms, ids: Many[str] | None = None) -> Tensor:
    """(sqrt P - l1 / l2) / (sqrt P - 1); in [0, 1], 0 if all are equal, 1 if one matrix has the whole gradient.

    Hoyer's sparseness, JMLR 5 (2004).
    """
    x = _checked(norms, ids)
    root = math.sqrt(x.shape[1])
    return ((root - x.sum(1) / x.norm(dim=1)) / (root - 1)).clamp(0.0, 1.0)


def entropy(norms: Norms, ids: Many[str] | None = None) -> Tensor:
    """-sum_k p_k log p_k / log P with p = x / sum x; in [0, 1]. It *falls* with concentration: 1 if all are equal."""
    share = _shares(norms, ids)
    return (-torch.xlogy(share, share).sum(1) / math.log(share.shape[1])).clamp(0.0, 1.0)


def top_share(norms: Norms, ids: Many[str] | None = None) -> Tensor:
    """Sum of the ceil(P / 10) largest norms over the sum of all; in [ceil(P / 10) / P, 1]."""
    share = _shares(norms, ids)
    return share.topk(math.ceil(0.1 * share.shape[1]), dim=1).values.sum(1)


def evenness_gap(norms: Norms, ids: Many[str] | None = None) -> Tensor:
    """1 - entropy: the entropy as a score that rises with concentration; in [0, 1]."""
    return 1.0 - entropy(norms, ids)


def per_entry(norms: Norms, sizes: Many[int]) -> Tensor:
    """norm / sqrt(number of entries) of each matrix, float64 [S, P]: the ablation that removes the bias of shapes.

    Args:
        sizes: entries of each of the P matrices.
    """
    x = torch.as_tensor(norms)
    return x.double() / torch.tensor(sizes, dtype=torch.float64, device=x.device).sqrt()


CONCENTRATION: dict[str, Statistic] = {
    "gini": gini,
    "kurtosis": kurtosis,
    "cv": coefficient_of_variation,
    "hoyer": hoyer,
    "entropy": evenness_gap,
    "top_share": top_share,
}
"""Concentration statistics by the name that a configuration uses; each rises with concentration."""


def _shares(norms: Norms, ids: Many[str] | None) -> Tensor:
    x = _checked(norms, ids)
    return x / x.sum(1, keepdim=True)


def _checked(norms: Norms, ids: Many[str] | None) -> Tensor:
    """`norms` in float64, every row scaled to a maximum of 1, so that no power of it over- or underflows."""
    x = torch.as_tensor(norms)
    if x.ndim != 2 or x.shape[1] < 2:
        raise UserError(f"gradient norms must be [trajectories, matrices >= 2], got the shape {list(x.shape)}")
    if ids is not None and len(ids) != len(x):
        raise UserError(f"{len(ids)} ids were given for gradient norms of {len(x)} trajectories")
    x = x.double()
    _refuse(~x.isfinite().all(1), ids, "a gradient that is not finite", "look at its log-probabilities or drop it")
    _refuse((x < 0).any(1), ids, "negative gradient norms", "give norms, not signed values")
    _refuse((x == 0).all(1), ids, "a gradient of zero", "the model knows it by heart already: drop it")
    return x / x.amax(1, keepdim=True)


def _refuse(bad: Tensor, ids: Many[str] | None, what: str, fix: str) -> None:
    rows: list[int] = bad.nonzero()[:, 0].tolist()
    if rows:
        names = [ids[row] if ids is not None else f"in row {row}" for row in rows]
        others = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise UserError(f"trajectory {names[0]}{others} has {what}; {fix}")
