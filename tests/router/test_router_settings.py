from __future__ import annotations

from typing import get_args

import pytest

from router.arbitration import (
    POLICIES,
    AllGRPO,
    AllSFT,
    ConstantMix,
    MedianSplit,
    PassRateSplit,
    RunningQuantile,
    ScheduledMix,
    Sequential,
    make_arbiter,
)
from router.geometry import CONCENTRATION
from router.router_settings import MIXES, NEED_PROBE, Metric, PolicyName, RouterSettings
from router.scores import Concentration, Inverse, Loss, Magnitude, Random


def test_every_name_that_a_configuration_takes_is_a_policy_or_a_statistic() -> None:
    assert set(get_args(PolicyName)) == {"none", *POLICIES}
    assert set(get_args(Metric)) == set(CONCENTRATION)
    assert set(POLICIES) >= NEED_PROBE | MIXES


@pytest.mark.parametrize("mode", ["staged", "online"])
@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_can_be_made(name: str, mode: str) -> None:
    assert make_arbiter(RouterSettings.model_validate({"policy": name, "mode": mode}), seed=1).decide


def test_a_policy_is_made_of_its_settings() -> None:
    config = RouterSettings(
        metric="entropy", gate=0.25, mu=0.3, peak=0.7, valley=0.1, warmup_steps=3, decay_steps=5, share=0.4, window=9
    )
    concentration = Concentration.named("entropy")
    made = {
        "median_split": concentration,
        "inverse": Inverse(concentration),
        "random": Random(7),
        "magnitude": Magnitude(),
        "loss": Loss(),
        "pass_rate": PassRateSplit(0.25),
        "chord": ConstantMix(0.3),
        "chord_scheduled": ScheduledMix(0.7, 0.1, 3, 5),
        "all_sft": AllSFT(),
        "all_grpo": AllGRPO(),
        "sequential": Sequential(),
    }
    assert set(made) == set(POLICIES)
    for name, expected in made.items():
        for mode, split in (("staged", MedianSplit), ("online", lambda score: RunningQuantile(score, 0.4, 9))):
            arbiter = make_arbiter(config.model_copy(update={"policy": name, "mode": mode}), seed=7)
            assert arbiter == (split(expected) if hasattr(arbiter, "score") else expected), (name, mode)


def test_a_split_is_a_median_of_the_corpus_or_a_quantile_that_runs() -> None:
    staged, online = (
        make_arbiter(RouterSettings.model_validate({"policy": "loss", "mode": mode}), 0)
        for mode in ("staged", "online")
    )
    assert isinstance(staged, MedianSplit) and isinstance(online, RunningQuantile)
    assert staged.score == online.score
