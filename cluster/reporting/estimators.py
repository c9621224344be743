"""What the outcome of a panel says and how sure it is: success rates, pass@k, and comparisons on the same tasks.

Pure functions. Everywhere the tasks are the units that were drawn: several episodes of one task are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict
from scipy.special import stdtrit

Z_95 = 1.959963984540054
RESAMPLES = 10_000


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Rate(Frozen):
    """A success rate, pass@1: `wins` of `episodes`, with its 95 % interval."""

    wins: int
    episodes: int
    rate: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.rate:.3f} [{self.low:.3f}, {self.high:.3f}]"


class WonLost(Frozen):
    """Two greedy results on the same tasks.

    Attributes:
        won: tasks solved now and not before; `lost`: the reverse.
        p: of McNemar's exact test: how often chance alone would part won and lost at least so far.
    """

    won: int
    lost: int
    p: float


class Difference(Frozen):
    """How far pass@1 of two sampled results on the same tasks lies apart, now less before, with its 95 % interval."""

    difference: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.difference:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def wilson_rate(wins: int, episodes: int) -> Rate:
    """Success rate of independent episodes with its Wilson score interval at 95 %; without episodes it is [0, 1].

    >>> print(wilson_rate(64, 128))
    0.500 [0.415, 0.585]
    """
    if episodes == 0:
        return Rate(wins=0, episodes=0, rate=0.0, low=0.0, high=1.0)
    low, high = _wilson_interval(wins / episodes, episodes)
    return Rate(wins=wins, episodes=episodes, rate=wins / episodes, low=low, high=high)


def clustered_rate(successes: Sequence[int], episodes: Sequence[int]) -> Rate:
    """pass@1 over several episodes a task, with a cluster-robust 95 % interval: the tasks are the clusters.

    With c_i of n_i episodes of task i successful, m tasks, N = sum n_i and p = sum c_i / N, the variance of p is
    v = m/(m-1) · sum (c_i - n_i p)² / N² (Cochran, Sampling Techniques, 3rd ed., section 3.12). That many episodes are
    worth p(1-p)/v independent ones; Wilson's interval of so many, at least m and at most N, is what is given (Korn and
    Graubard's effective size in Wilson's interval: Franco et al., J. Surv. Stat. Methodol. 7, 2019). So it has a width
    where no or every episode succeeds, and with one episode a task it is Wilson's own.

    Four tasks, each solved always or never, are no more than four episodes; solved half the time, they are all eight:

    >>> print(clustered_rate([2, 2, 0, 0], [2, 2, 2, 2]), "like", wilson_rate(2, 4))
    0.500 [0.150, 0.850] like 0.500 [0.150, 0.850]
    >>> print(clustered_rate([1, 1, 1, 1], [2, 2, 2, 2]), "like", wilson_rate(4, 8))
    0.500 [0.215, 0.785] like 0.500 [0.215, 0.785]
    """
    wins, total, tasks = sum(successes), sum(episodes), len(episodes)
    if total == 0:
        return wilson_rate(0, 0)
    p = wins / total
    residuals = sum((c - n * p) ** 2 for c, n in zip(successes, episodes, strict=True))
    variance = tasks / max(1, tasks - 1) * residuals / total**2
    worth = p * (1 - p) / variance if variance else (total if 0 < wins < total else tasks)
    low, high = _wilson_interval(p, min(max(worth, tasks), total))
    return Rate(wins=wins, episodes=total, rate=p, low=low, high=high)


def pass_at_k(successes: Sequence[int], episodes: Sequence[int], k: int) -> float:
    """The share of tasks that k samples would solve at least once, without bias: the mean over tasks of
    1 - C(n-c, k)/C(n, k), with c of n episodes successful (Chen et al. 2021, arXiv 2107.03374, equation 1).

    One task, one of two samples right: a single draw finds it half the time, two draws always.

    >>> pass_at_k([1], [2], 1), pass_at_k([1], [2], 2)
    (0.5, 1.0)

    Raises:
        ValueError: there are no tasks, or one has fewer than k episodes.
    """
    if not 1 <= k <= min(episodes, default=0):
        raise ValueError(f"pass@{k} needs {k} episodes or more of every task, and a task")
    missed = (math.comb(n - c, k) / math.comb(n, k) for c, n in zip(successes, episodes, strict=True))
    return 1.0 - math.fsum(missed) / len(episodes)


def powers_of_two(most: int) -> list[int]:
    """The k of pass@k.

    >>> powers_of_two(6)
    [1, 2, 4]
    """
    return [2**exponent for exponent in range(most.bit_length())]


def mcnemar(before: Sequence[bool], now: Sequence[bool]) -> WonLost:
    """McNemar's exact test of two greedy results, task by task in the same order.

    Only tasks whose outcome changed count. If nothing but chance moved them, `won` of won + lost is Binomial(1/2):
    p = min(1, 2 · P(at most min(won, lost))). Without a change p is 1.

    Five won and none lost is not yet beyond chance at 0.05, six is:

    >>> mcnemar([False] * 5, [True] * 5).p, mcnemar([False] * 6, [True] * 6).p
    (0.0625, 0.03125)
    """
    pairs = list(zip(before, now, strict=True))
    won, lost = sum(after and not first for first, after in pairs), sum(first and not after for first, after in pairs)
    changed = won + lost
    tail = sum(math.comb(changed, count) for count in range(min(won, lost) + 1))
    return WonLost(won=won, lost=lost, p=min(1.0, 2 * tail / 2**changed))


def paired_difference(before: Sequence[float], now: Sequence[float], seed: int = 0) -> Difference:
    """Difference of two pass@1, given as the share of successful episodes of each task, tasks in the same order.

    Its interval is that of a paired bootstrap (Efron and Tibshirani 1993, chapter 13): tasks are drawn anew with
    replacement, `RESAMPLES` times, each with both of its shares, and the interval holds the middle 95 % of the mean
    differences. `seed` makes it repeatable. Where all tasks differ alike it has no width; without tasks all is 0.

    >>> print(paired_difference([0.0, 0.5] * 50, [0.5, 0.5] * 50))
    +0.250 [+0.200, +0.300]
    """
    differences = np.array([after - first for first, after in zip(before, now, strict=True)])
    if differences.size == 0:
        return Difference(difference=0.0, low=0.0, high=0.0)
    # A draw of tasks is a draw of differences, and there are few of those: how often each comes is multinomial.
    values, counts = np.unique(differences, return_counts=True)
    draws = np.random.default_rng(seed).multinomial(len(differences), counts / len(differences), size=RESAMPLES)
    low, high = np.quantile(draws @ values / len(differences), [0.025, 0.975])
    return Difference(difference=float(differences.mean()), low=float(low), high=float(high))


def t_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the mean by Student's t; NaN for a single value.

    t = 4.303 with two degrees of freedom:

    >>> "{:.3f} {:.3f}".format(*t_interval([0.4, 0.5, 0.6]))
    '0.252 0.748'
    """
    if len(values) < 2:
        return math.nan, math.nan
    mean, spread = float(np.mean(values)), float(np.std(values, ddof=1))
    half = float(stdtrit(len(values) - 1, 0.975)) * spread / math.sqrt(len(values))
    return mean - half, mean + half


def _wilson_interval(p: float, n: float) -> tuple[float, float]:
    """Centre (p + z²/2n) / (1 + z²/n), half-width z/(1 + z²/n) · sqrt(p(1-p)/n + z²/4n²), with z = 1.96."""
    z2 = Z_95**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)
