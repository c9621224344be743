"""Arbitration: which trajectories are imitated (SFT) and on which tasks the policy explores (GRPO).

Every policy is an `Arbiter`; only `RunningQuantile` remembers anything from one batch to the next.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Many
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, Protocol

import numpy.typing as npt
import torch
from torch import Tensor

from router.router_settings import RouterSettings, Thresholds
from router.scores import Candidates, Concentration, Inverse, Loss, Magnitude, Random, Score
from trajectories.errors import UserError
from trajectories.types import Route


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one trajectory and its task.

    Attributes:
        route: GRPO where the task is rolled out, also beside SFT.
        rl_weight: factor of the policy-gradient term of the task's rollouts.
        ce_weight: factor of the cross-entropy term of the trajectory itself.
        score, threshold: what was compared, None where nothing was; they do not count in comparisons.
    """

    route: Route
    rl_weight: float
    ce_weight: float
    score: float | None = field(default=None, compare=False)
    threshold: float | None = field(default=None, compare=False)


IMITATE = Decision(Route.SFT, rl_weight=0.0, ce_weight=1.0)
EXPLORE = Decision(Route.GRPO, rl_weight=1.0, ce_weight=0.0)


class Arbiter(Protocol):
    """A routing policy."""

    def decide(self, candidates: Candidates) -> list[Decision]:
        """One decision per trajectory, in order.

        Raises:
            UserError: it needs a measurement that is missing, or values it cannot split.
        """
        ...


def quantile_split(
    scores: Tensor | npt.NDArray[Any] | Many[float], share: float = 0.5, ids: Many[str] | None = None
) -> list[Route]:
    """SFT where score <= the quantile of `share`, GRPO above; ties with it go to SFT. At 0.5 it is the lower median, so
    distinct scores split in halves, the odd one to SFT.

    quantile_split([0.1, 0.4, 0.2, 0.3]) is ["sft", "grpo", "sft", "grpo"]; with a share of 0.25 only the first is
    imitated.

    Args:
        share: the part of the trajectories that goes to SFT, in (0, 1].
        ids: names for errors.
    Raises:
        UserError: fewer than two scores, or one that is not finite.
    """
    values = _finite(scores, ids)
    if len(values) < 2:
        raise UserError(f"a split needs two trajectories or more, got {len(values)}")
    threshold = quantile(values, share)
    return [Route.SFT if value <= threshold else Route.GRPO for value in values]


def quantile(values: Many[float], share: float) -> float:
    """The least value v such that at least `share` of the values are <= v; 0.5 gives the lower median.

    quantile([4, 1, 3, 2], 0.5) is 2. The share counts as it is written: 0.55 of 100 values are 55, where a product of
    floats would be a little more, and 56 after rounding up.
    """
    return sorted(values)[max(math.ceil(Fraction(str(share)) * len(values)), 1) - 1]


@dataclass(frozen=True, slots=True)
class QuantileSplit:
    """Staged routing: the lower share of the corpus by score is imitated, the tasks of the others are explored.

    Attributes:
        share: the part of the trajectories that goes to SFT, in (0, 1].
        thresholds: `environment` splits each environment's trajectories by themselves, `corpus` all of them at once.
    """

    score: Score
    share: float = 0.5
    thresholds: Thresholds = "environment"

    def __post_init__(self) -> None:
        _within("share", self.share, 0.0, 1.0)

    def decide(self, candidates: Candidates) -> list[Decision]:
        values = _finite(self.score(candidates), candidates.ids)
        if len(values) < 2:
            raise UserError(f"a split needs two trajectories or more, got {len(values)}")
        places = _places(candidates, self.thresholds)
        decisions: dict[int, Decision] = {}
        for place in dict.fromkeys(places):
            rows = [row for row, other in enumerate(places) if other == place]
            if len(rows) < 2:
                raise UserError(
                    f"{place} has a single trajectory, {candidates.ids[rows[0]]}, which a threshold of its own cannot "
                    "split: give more of them, or set router.thresholds=corpus"
                )
            mine = [values[row] for row in rows]
            routes, threshold = quantile_split(mine, self.share), quantile(mine, self.share)
            for row, route in zip(rows, routes, strict=True):
                made = IMITATE if route is Route.SFT else EXPLORE
                decisions[row] = replace(made, score=values[row], threshold=threshold)
        return [decisions[row] for row in range(len(values))]


Place = tuple[str, str]
"""Environment ("" where one threshold holds for all) and kind of reference: what a window belongs to."""


@dataclass(slots=True)
class RunningQuantile:
    """Online routing: score <= quantile of the latest scores of its kind, those to decide included, is imitated.

    A quantile only compares like with like: references of one kind (an expert's, an own success), of one environment,
    scored by weights that are not too far apart. Until a window holds `fill` scores, what comes is explored: the
    decision has a score and no threshold.

    Attributes:
        share: share of the trajectories that goes to SFT. Tuning: 0.5 is the median split.
        window: scores kept of each kind and environment.
        steps: how many of the latest steps' scores count, the present one included.
        fill: scores that a window needs before it splits.
        thresholds: `environment` keeps windows for each environment, `corpus` for all together.
    """

    score: Score
    share: float = 0.5
    window: int = 512
    steps: int = 10
    fill: int = 8
    thresholds: Thresholds = "environment"
    _windows: dict[Place, deque[tuple[int, float]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _within("share", self.share, 0.0, 1.0)
        _within("window", self.window, 2, math.inf)
        _within("steps", self.steps, 1, math.inf)
        _within("fill", self.fill, 1, self.window)

    def decide(self, candidates: Candidates) -> list[Decision]:
        values = _finite(self.score(candidates), candidates.ids)
        kinds = candidates.kinds or ("",) * len(values)
        places = list(zip(_places(candidates, self.thresholds), kinds, strict=True))
        for place, value in zip(places, values, strict=True):
            self._windows.setdefault(place, deque(maxlen=self.window)).append((candidates.step, value))
        for window in self._windows.values():
            while window and window[0][0] <= candidates.step - self.steps:
                window.popleft()
        present, decisions = self.present(), []
        for place, value in zip(places, values, strict=True):
            threshold = present.get(place)
            made = IMITATE if threshold is not None and value <= threshold else EXPLORE
            decisions.append(replace(made, score=value, threshold=threshold))
        return decisions

    def state(self) -> dict[Place, list[tuple[int, float]]]:
        """The step and the score of all that the windows hold."""
        return {place: list(window) for place, window in self._windows.items()}

    def restore(self, state: Mapping[Place, Many[tuple[int, float]]]) -> None:
        """Take back what `state` gave."""
        self._windows = {place: deque(window, maxlen=self.window) for place, window in state.items()}

    def present(self) -> dict[Place, float]:
        """The present threshold of every window that is filled."""
        scores = {place: [value for _, value in window] for place, window in self._windows.items()}
        return {place: quantile(values, self.share) for place, values in scores.items() if len(values) >= self.fill}


@dataclass(frozen=True, slots=True)
class PassRateSplit:
    """HPT, arXiv 2509.04419: a task is explored once it succeeds more often than `threshold`, else imitated."""

    threshold: float = 0.0

    def __post_init__(self) -> None:
        _within("threshold", self.threshold, 0.0, 1.0)

    def decide(self, candidates: Candidates) -> list[Decision]:
        if candidates.pass_rates is None:
            raise UserError("the split by pass rate needs pass rates and there are none; roll out every task first")
        rates = _finite(candidates.pass_rates, candidates.ids)
        return [
            replace(EXPLORE if rate > self.threshold else IMITATE, score=rate, threshold=self.threshold)
            for rate in rates
        ]


@dataclass(frozen=True, slots=True)
class ConstantMix:
    """CHORD, arXiv 2508.11408, with a fixed weight: mu * SFT + (1 - mu) * GRPO on everything."""

    mu: float = 0.1

    def __post_init__(self) -> None:
        _within("mu", self.mu, 0.0, 1.0)

    def decide(self, candidates: Candidates) -> list[Decision]:
        return [_mixed(self.mu)] * len(candidates.ids)


@dataclass(frozen=True, slots=True)
class ScheduledMix:
    """CHORD-mu: mu rises linearly from 0 to `peak` in `warmup_steps`, then falls along half a cosine to `valley` in
    `decay_steps`."""

    peak: float = 0.5
    valley: float = 0.02
    warmup_steps: int = 200
    decay_steps: int = 400

    def __post_init__(self) -> None:
        _within("peak", self.peak, 0.0, 1.0)
        _within("valley", self.valley, 0.0, self.peak)
        _within("warmup_steps", self.warmup_steps, 0, math.inf)
        _within("decay_steps", self.decay_steps, 0, math.inf)

    def mu(self, step: int) -> float:
        """Weight of SFT at a step: with (0.5, 0.1, 4, 2), step 2 gives 0.25, step 5 gives 0.3, step 6 gives 0.1."""
        if step < self.warmup_steps:
            return self.peak * step / self.warmup_steps
        decayed = step - self.warmup_steps
        if decayed >= self.decay_steps:
            return self.valley
        left = (1 + math.cos(math.pi * decayed / self.decay_steps)) / 2
        return self.valley + (self.peak - self.valley) * left

    def decide(self, candidates: Candidates) -> list[Decision]:
        return [_mixed(self.mu(candidates.step))] * len(candidates.ids)


@dataclass(frozen=True, slots=True)
class AllSFT:
    """Everything is imitated."""

    def decide(self, candidates: Candidates) -> list[Decision]:
        return [IMITATE] * len(candidates.ids)


@dataclass(frozen=True, slots=True)
class AllGRPO:
    """Every task is explored."""

    def decide(self, candidates: Candidates) -> list[Decision]:
        return [EXPLORE] * len(candidates.ids)


@dataclass(frozen=True, slots=True)
class Sequential:
    """SFT-then-GRPO: everything is imitated in the SFT stage, then every task explored in the GRPO stage. In a mixed
    stage it is the plain sum of both."""

    def decide(self, candidates: Candidates) -> list[Decision]:
        return [Decision(Route.GRPO, rl_weight=1.0, ce_weight=1.0)] * len(candidates.ids)


ALIKE = (ConstantMix, ScheduledMix, AllSFT, AllGRPO, Sequential)
"""Policies that treat everything alike, without a look at it: they decide for a group without reference too."""


def _places(candidates: Candidates, thresholds: Thresholds) -> tuple[str, ...]:
    """What each candidate shares its threshold with."""
    return candidates.environments if thresholds == "environment" else ("",) * len(candidates.ids)


def _mixed(mu: float) -> Decision:
    return Decision(Route.GRPO if mu < 1 else Route.SFT, rl_weight=1.0 - mu, ce_weight=mu)


def _finite(scores: Tensor | npt.NDArray[Any] | Many[float], ids: Many[str] | None) -> list[float]:
    values = torch.as_tensor(scores, dtype=torch.float64)
    if values.ndim != 1:
        raise UserError(f"scores must be one number per trajectory, got the shape {list(values.shape)}")
    for row, value in enumerate(values.tolist()):
        if not math.isfinite(value):
            name = ids[row] if ids is not None else f"in row {row}"
            raise UserError(f"trajectory {name} has the score {value}; drop it before routing")
    return values.tolist()


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise UserError(f"{name} must be in [{low}, {high}], got {value}")


def make_arbiter(config: RouterSettings, seed: int) -> Arbiter:
    """The configured policy. `seed` is that of the random routes (`random`)."""
    return POLICIES[config.policy](config, seed)


def _split(score: Callable[[RouterSettings, int], Score]) -> Callable[[RouterSettings, int], Arbiter]:
    """By a quantile of the corpus when it is routed at once, by a running one when it comes bit by bit."""

    def build(config: RouterSettings, seed: int) -> Arbiter:
        if config.mode == "online":
            sizes = (config.window, config.window_steps, config.window_fill)
            return RunningQuantile(score(config, seed), config.share, *sizes, config.thresholds)
        return QuantileSplit(score(config, seed), config.share, config.thresholds)

    return build


POLICIES: dict[str, Callable[[RouterSettings, int], Arbiter]] = {
    "median_split": _split(lambda config, _: Concentration.named(config.metric)),
    "inverse": _split(lambda config, _: Inverse(Concentration.named(config.metric))),
    "random": _split(lambda _, seed: Random(seed)),
    "magnitude": _split(lambda *_: Magnitude()),
    "loss": _split(lambda *_: Loss()),
    "pass_rate": lambda config, _: PassRateSplit(config.gate),
    "chord": lambda config, _: ConstantMix(config.mu),
    "chord_scheduled": lambda config, _: ScheduledMix(
        config.peak, config.valley, config.warmup_steps, config.decay_steps
    ),
    "all_sft": lambda *_: AllSFT(),
    "all_grpo": lambda *_: AllGRPO(),
    "sequential": lambda *_: Sequential(),
}
