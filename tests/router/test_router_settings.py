from __future__ import annotations

from typing import get_args

import pytest

from router.arbitration import POLICIES, QuantileSplit, RunningQuantile, make_arbiter
from router.geometry import CONCENTRATION
from router.router_settings import MIXES, NEED_PROBE, Metric, PolicyName, RouterSettings
from router.scores import Concentration


def test_every_name_that_a_configuration_takes_is_a_policy_or_a_statistic() -> None:
    assert set(get_args(PolicyName)) == {"none", *POLICIES}
    assert set(get_args(Metric)) == {*CONCENTRATION, "gini_per_entry"}
    assert all(Concentration.named(name) for name in get_args(Metric))
    assert set(POLICIES) >= NEED_PROBE | MIXES


@pytest.mark.parametrize("mode", ["staged", "online"])
@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_can_be_made(name: str, mode: str) -> None:
    assert make_arbiter(RouterSettings.model_validate({"policy": name, "mode": mode}), seed=1).decide


def test_a_split_is_a_quantile_of_the_corpus_or_one_that_runs() -> None:
    settings = {"policy": "loss", "share": 0.2, "thresholds": "corpus"}
    staged, online = (
        make_arbiter(RouterSettings.model_validate(settings | {"mode": mode}), 0) for mode in ("staged", "online")
    )
    assert isinstance(staged, QuantileSplit) and isinstance(online, RunningQuantile)
    assert staged.score == online.score
    assert (staged.share, staged.thresholds) == (online.share, online.thresholds) == (0.2, "corpus")
