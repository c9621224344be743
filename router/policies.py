"""Routing policies by the name that a configuration uses."""

from __future__ import annotations

from collections.abc import Callable

from router.arbitration import (
    AllGRPO,
    AllSFT,
    Arbiter,
    ConstantMix,
    MedianSplit,
    PassRateGate,
    RunningQuantile,
    ScheduledMix,
    Sequential,
)
from router.config import RouterConfig
from router.scores import Concentration, Inverse, Loss, Magnitude, Random, Score


def make_arbiter(config: RouterConfig, seed: int) -> Arbiter:
    """The configured policy. `seed` is that of chance (`random`)."""
    return POLICIES[config.policy](config, seed)


def _split(score: Callable[[RouterConfig, int], Score]) -> Callable[[RouterConfig, int], Arbiter]:
    """By the median of the corpus when it is routed at once, by a running quantile when it comes bit by bit."""

    def build(config: RouterConfig, seed: int) -> Arbiter:
        if config.mode == "online":
            return RunningQuantile(score(config, seed), config.share, config.window)
        return MedianSplit(score(config, seed))

    return build


POLICIES: dict[str, Callable[[RouterConfig, int], Arbiter]] = {
    "median_split": _split(lambda config, _: Concentration.named(config.metric)),
    "inverse": _split(lambda config, _: Inverse(Concentration.named(config.metric))),
    "random": _split(lambda _, seed: Random(seed)),
    "magnitude": _split(lambda *_: Magnitude()),
    "loss": _split(lambda *_: Loss()),
    "pass_rate": lambda config, _: PassRateGate(config.gate),
    "chord": lambda config, _: ConstantMix(config.mu),
    "chord_scheduled": lambda config, _: ScheduledMix(
        config.peak, config.valley, config.warmup_steps, config.decay_steps
    ),
    "all_sft": lambda *_: AllSFT(),
    "all_grpo": lambda *_: AllGRPO(),
    "sequential": lambda *_: Sequential(),
}
