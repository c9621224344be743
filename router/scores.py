"""What a split can order trajectories by: the concentration of PRISM, and the scores of its controls.

A score is a frozen dataclass, called with `Candidates`, that returns one float64 value per trajectory. A split sends
low values to SFT, so every score reads "the higher, the more this needs exploration".
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from router.geometry import CONCENTRATION, Statistic, gini, per_entry
from trajectories.errors import UserError


@dataclass(frozen=True, slots=True)
class Candidates:
    """n trajectories that wait for a route, with what is known about them; None where nobody measured.

    Attributes:
        ids: their names.
        environments: the environment of each; thresholds that run are kept apart by it.
        kinds: where each came from; scores of different kinds are not compared while they run. None: all alike.
        step: optimiser steps taken so far.
        norms: [n, P], gradient norms of the probe.
        entries: of each of the P matrices.
        losses: [n], mean -log p of the trained tokens.
        pass_rates: [n], share of each task's rollouts that succeeded, in [0, 1].
    Raises:
        UserError: lengths differ.
    """

    ids: tuple[str, ...]
    environments: tuple[str, ...]
    kinds: tuple[str, ...] | None = None
    step: int = 0
    norms: Tensor | None = None
    entries: tuple[int, ...] | None = None
    losses: Tensor | None = None
    pass_rates: Tensor | None = None

    def __post_init__(self) -> None:
        for name in ("environments", "kinds", "norms", "losses", "pass_rates"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.ids):
                raise UserError(f"{len(self.ids)} trajectories came with {len(values)} {name}")


def score_percentiles(scores: Iterable[float | None]) -> dict[str, float]:
    """Metrics `router/score_p10`, `_p50` and `_p90` of the scores that there are, interpolated; none of none."""
    values = torch.tensor([score for score in scores if score is not None], dtype=torch.float64)
    if not len(values):
        return {}
    return {f"router/score_p{percent}": float(values.quantile(percent / 100)) for percent in (10, 50, 90)}


Score = Callable[[Candidates], Tensor]
Values = TypeVar("Values")

PER_ENTRY = "_per_entry"
"""Ends the name of a statistic of norms that are divided by the root of their matrix's entries."""


@dataclass(frozen=True, slots=True)
class Concentration:
    """PRISM, arXiv 2601.07224: how unevenly the gradient is spread over the matrices.

    Attributes:
        per_entry: divide every norm by the root of its matrix's entries, so that the shapes of the matrices, which are
            the same for all trajectories, have no part in the score. Ours.
    """

    statistic: Statistic = gini
    per_entry: bool = False

    @classmethod
    def named(cls, name: str) -> Concentration:
        """The score by a name of `geometry.CONCENTRATION`, with `PER_ENTRY` behind it for that of norms per entry.

        Raises:
            UserError: there is no such statistic.
        """
        plain = name.removesuffix(PER_ENTRY)
        if plain not in CONCENTRATION:
            raise UserError(f"there is no statistic {name!r}; choose one of {', '.join(CONCENTRATION)}")
        return cls(CONCENTRATION[plain], per_entry=plain != name)

    def __call__(self, candidates: Candidates) -> Tensor:
        norms = _measured(candidates.norms, "gradient norms", "run the probe")
        if self.per_entry:
            norms = per_entry(norms, _measured(candidates.entries, "the sizes of the matrices", "run the probe"))
        return self.statistic(norms, candidates.ids)


@dataclass(frozen=True, slots=True)
class Inverse:
    """Control: the opposite order, so that what another score would explore is imitated and the reverse."""

    score: Score

    def __call__(self, candidates: Candidates) -> Tensor:
        return -self.score(candidates)


@dataclass(frozen=True, slots=True)
class Magnitude:
    """Control: the size of the gradient, the L2 norm over all matrices, and not its shape."""

    def __call__(self, candidates: Candidates) -> Tensor:
        return _measured(candidates.norms, "gradient norms", "run the probe").double().norm(dim=1)


@dataclass(frozen=True, slots=True)
class Loss:
    """Control: the loss on the trajectory; perplexity gives the same order."""

    def __call__(self, candidates: Candidates) -> Tensor:
        return _measured(candidates.losses, "losses", "run the probe").double()


@dataclass(frozen=True, slots=True)
class Random:
    """Control: chance. The value hangs on seed and id alone, so a resumed run routes as the one before."""

    seed: int = 0

    def __call__(self, candidates: Candidates) -> Tensor:
        values = [random.Random(f"{self.seed}/{name}").random() for name in candidates.ids]
        return torch.tensor(values, dtype=torch.float64)


def _measured(values: Values | None, what: str, fix: str) -> Values:
    if values is None:
        raise UserError(f"this routing policy needs {what} and there are none; {fix} first")
    return values
