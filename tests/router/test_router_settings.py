from __future__ import annotations

from typing import get_args

import pytest

from router.arbitration import (
    POLICIES,
    AllGRPO,
    AllSFT,
    ConstantMix,
    PassRateSplit,
    QuantileSplit,
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
    assert set(get_args(Metric)) == {*CONCENTRATION, "gini_per_entry"}
    assert all(Concentration.named(name) for name in get_args(Metric))
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
        splits = {"staged": QuantileSplit(expected, 0.4), "online": RunningQuantile(expected, 0.4, 9)}
        for mode, split in splits.items():
            arbiter = make_arbiter(config.model_copy(update={"policy": name, "mode": mode}), seed=7)
            assert arbiter == (split if hasattr(arbiter, "score") else expected), (name, mode)


def test_a_split_is_a_quantile_of_the_corpus_or_one_that_runs() -> None:
    settings = {"policy": "loss", "share": 0.2, "thresholds": "corpus"}
    staged, online = (
        make_arbiter(RouterSettings.model_validate(settings | {"mode": mode}), 0) for mode in ("staged", "online")
    )
    assert isinstance(staged, QuantileSplit) and isinstance(online, RunningQuantile)
    assert staged.score == online.score
    assert (staged.share, staged.thresholds) == (online.share, online.thresholds) == (0.2, "corpus")
