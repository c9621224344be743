from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from router.arbitration import (
    EXPLORE,
    IMITATE,
    AllGRPO,
    AllSFT,
    Arbiter,
    ConstantMix,
    Decision,
    PassRateSplit,
    QuantileSplit,
    RunningQuantile,
    ScheduledMix,
    Sequential,
    quantile,
    quantile_split,
)
from router.geometry import CONCENTRATION, kurtosis
from router.scores import Candidates, Concentration, Inverse, Loss, Magnitude, Random, Score
from trajectories.errors import UserError
from trajectories.types import Route

scores = st.lists(st.integers(-20, 20).map(float), min_size=2, max_size=30)


def candidates(count: int = 6, step: int = 0, environment: str = "alfworld") -> Candidates:
    """Concentration falls, magnitude rises and the loss alternates with the number of the trajectory."""
    norms = torch.tensor([[10.0 * 2**i, *[float(i + 1) * 2**i] * 6] for i in range(count)])
    return Candidates(
        ids=tuple(f"t{i}" for i in range(count)),
        environments=(environment,) * count,
        step=step,
        norms=norms,
        losses=torch.tensor([float(i % 2) + i / 100 for i in range(count)]),
        pass_rates=torch.tensor([i / count for i in range(count)]),
    )


def routes(arbiter: Arbiter, of: Candidates) -> list[str]:
    return [str(decision.route) for decision in arbiter.decide(of)]


def test_a_split_in_halves_worked_examples() -> None:
    assert quantile_split([0.1, 0.4, 0.2, 0.3]) == ["sft", "grpo", "sft", "grpo"]
    assert quantile_split(torch.tensor([3.0, 1.0, 2.0])) == ["grpo", "sft", "sft"]
    assert quantile_split(np.array([1.0, 2.0, 2.0, 2.0, 3.0])) == ["sft", "sft", "sft", "sft", "grpo"]
    assert quantile_split([7.0, 7.0, 7.0]) == ["sft", "sft", "sft"]


def test_a_split_by_share_sends_ties_to_sft() -> None:
    assert quantile_split([5.0, 1.0, 4.0, 2.0, 3.0], 0.2) == ["grpo", "sft", "grpo", "grpo", "grpo"]
    assert quantile_split([1.0, 1.0, 4.0, 2.0, 3.0], 0.2) == ["sft", "sft", "grpo", "grpo", "grpo"]
    assert quantile_split([1.0, 2.0], 1.0) == ["sft", "sft"]


@given(st.lists(st.integers(-1000, 1000), min_size=2, max_size=30, unique=True), st.floats(0.01, 1.0))
def test_distinct_scores_split_by_the_share_rounded_up(values: list[int], share: float) -> None:
    batch = replace(candidates(len(values)), losses=torch.tensor(values, dtype=torch.float64))
    assert Counter(routes(QuantileSplit(Loss(), share), batch))["sft"] == math.ceil(Fraction(str(share)) * len(values))


def test_a_share_of_two_decimals_is_split_exactly() -> None:
    """0.55 * 100 is 55.000000000000007 in floats, of which rounding up would make 56."""
    for hundredths, count in product(range(1, 101), range(1, 101)):
        assert quantile(range(1, count + 1), hundredths / 100) == -(-hundredths * count // 100)


@given(st.lists(st.tuples(st.integers(-20, 20), st.booleans()), max_size=30), st.floats(0.01, 1.0))
def test_an_environment_is_split_as_if_there_were_no_other(some: list[tuple[int, bool]], share: float) -> None:
    rows = [*some, (0, True), (1, True), (0, False), (1, False)]
    losses, places = [float(value) for value, _ in rows], [str(place) for _, place in rows]
    both = replace(candidates(len(rows)), environments=tuple(places), losses=torch.tensor(losses, dtype=torch.float64))
    made = routes(QuantileSplit(Loss(), share), both)
    for name in ("True", "False"):
        mine = [row for row, place in enumerate(places) if place == name]
        assert [made[row] for row in mine] == quantile_split([losses[row] for row in mine], share)
    assert routes(QuantileSplit(Loss(), share, "corpus"), both) == quantile_split(losses, share)


@given(scores)
def test_median_split_is_the_textbooks_median_with_ties_to_sft(values: list[float]) -> None:
    assert quantile_split(values) == ["sft" if value <= np.median(values) else "grpo" for value in values]


@given(st.lists(st.integers(-1000, 1000), min_size=2, max_size=30, unique=True))
def test_distinct_scores_split_in_halves(values: list[int]) -> None:
    counts = Counter(quantile_split([float(value) for value in values]))
    assert counts[Route.SFT] - counts[Route.GRPO] == len(values) % 2


@pytest.mark.parametrize("values", [[], [1.0]])
def test_fewer_than_two_trajectories_cannot_be_split(values: list[float]) -> None:
    with pytest.raises(UserError, match=f"two trajectories or more, got {len(values)}"):
        quantile_split(values)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_is_refused_by_name(value: float) -> None:
    with pytest.raises(UserError, match="trajectory in row 1 has the score"):
        quantile_split([1.0, value, 2.0])
    with pytest.raises(UserError, match="trajectory t1 has the score"):
        QuantileSplit(Loss()).decide(replace(candidates(3), losses=torch.tensor([1.0, value, 2.0])))
    with pytest.raises(UserError, match=r"one number per trajectory, got the shape \[2, 2\]"):
        quantile_split(torch.ones(2, 2))


@given(scores, st.floats(0.01, 1.0))
def test_quantile_is_the_least_value_that_covers_the_share(values: list[float], share: float) -> None:
    threshold = quantile(values, share)
    assert threshold in values
    wanted = Fraction(str(share)) * len(values)
    assert sum(value <= threshold for value in values) >= wanted > sum(value < threshold for value in values)


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (Concentration(), ["grpo"] * 3 + ["sft"] * 3),
        (Concentration(kurtosis), None),
        (Inverse(Concentration()), ["sft"] * 3 + ["grpo"] * 3),
        (Magnitude(), ["sft"] * 3 + ["grpo"] * 3),
        (Loss(), ["sft", "grpo"] * 3),
    ],
)
def test_median_split_by_each_score(score: Score, expected: list[str] | None) -> None:
    made = routes(QuantileSplit(score), candidates())
    assert expected is None or made == expected
    assert set(made) <= {"sft", "grpo"}
    assert {decision for decision in QuantileSplit(score).decide(candidates())} <= {IMITATE, EXPLORE}


def test_random_halves_depend_on_seed_and_ids_only() -> None:
    many = candidates(200)
    made = routes(QuantileSplit(Random(1)), many)
    assert Counter(made) == {"sft": 100, "grpo": 100}
    assert routes(QuantileSplit(Random(1)), many) == made
    assert routes(QuantileSplit(Random(2)), many) != made
    backwards = replace(many, ids=many.ids[::-1])
    assert routes(QuantileSplit(Random(1)), backwards) == made[::-1]
    drawn = Random(1)(many)
    assert abs(float(drawn.mean()) - 0.5) < 0.1


@pytest.mark.parametrize("name", CONCENTRATION)
def test_concentration_by_name(name: str) -> None:
    made = Concentration.named(name)(replace(candidates(), norms=torch.rand(6, 14)))
    assert made.shape == (6,)


def test_norms_per_entry_take_the_shapes_of_the_matrices_out_of_the_score() -> None:
    """The same gradient per entry everywhere: even without the bias of shapes, uneven with it."""
    entries = (4, 16, 100)
    batch = replace(candidates(2), norms=torch.tensor([[2.0, 4.0, 10.0], [2.0, 4.0, 20.0]]), entries=entries)
    even, uneven = Concentration.named("gini_per_entry")(batch).tolist()
    assert even == pytest.approx(0.0) and uneven > 0.1
    assert Concentration.named("gini")(batch)[0] > 0.3
    with pytest.raises(UserError, match="needs the sizes of the matrices and there are none; run the probe first"):
        Concentration.named("gini_per_entry")(replace(batch, entries=None))


def test_an_unknown_statistic_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="no statistic 'ginni'; choose one of gini, kurtosis"):
        Concentration.named("ginni")


def test_running_quantile_follows_the_scores_of_each_environment() -> None:
    arbiter = RunningQuantile(Loss(), window=4, fill=1)

    def decide(losses: list[float], environment: str = "alfworld") -> list[str]:
        return routes(arbiter, replace(candidates(len(losses), environment=environment), losses=torch.tensor(losses)))

    assert decide([5.0]) == ["sft"]  # a tie with itself
    assert decide([1.0, 9.0]) == ["sft", "grpo"]
    assert decide([2.0], "webshop") == ["sft"]
    assert decide([3.0], "webshop") == ["grpo"]
    assert arbiter.present() == {("alfworld", ""): 5.0, ("webshop", ""): 2.0}
    assert decide([20.0, 21.0, 22.0]) == ["sft", "grpo", "grpo"]  # the window forgot 5 and 1
    assert arbiter.present()["alfworld", ""] == 20.0


def test_a_lone_first_candidate_is_explored_until_its_window_is_filled() -> None:
    arbiter = RunningQuantile(Loss(), fill=3)
    found = [
        arbiter.decide(replace(candidates(1, step), losses=torch.tensor([value])))[0]
        for step, value in enumerate((1.0, 2.0, 1.5))
    ]
    assert found == [EXPLORE, EXPLORE, IMITATE]
    assert [(decision.score, decision.threshold) for decision in found] == [(1.0, None), (2.0, None), (1.5, 1.5)]


def test_expert_references_and_own_successes_are_compared_each_with_their_kind() -> None:
    """One quantile of both would imitate every own success, which the policy finds likely, and explore every
    expert's."""
    batch = replace(candidates(4), losses=torch.tensor([0.1, 0.2, 5.0, 6.0]))
    kinds = ("own", "own", "expert", "expert")
    assert routes(RunningQuantile(Loss(), fill=1), batch) == ["sft", "sft", "grpo", "grpo"]
    assert routes(RunningQuantile(Loss(), fill=1), replace(batch, kinds=kinds)) == ["sft", "grpo"] * 2


def test_scores_of_older_weights_leave_the_window() -> None:
    arbiter = RunningQuantile(Loss(), steps=2, fill=2)

    def decide(step: int, *losses: float) -> list[str]:
        return routes(arbiter, replace(candidates(len(losses), step), losses=torch.tensor(losses)))

    assert decide(0, 9.0, 9.5) == ["sft", "grpo"]
    assert decide(1, 1.0, 2.0) == ["sft", "sft"]  # among 1, 2, 9, 9.5
    assert decide(2, 3.0) == ["grpo"], "among 1, 2, 3: those of step 0 are too old"
    assert decide(9, 2.5) == ["grpo"], "alone, since all others are too old"
    assert arbiter.present() == {}
    with pytest.raises(UserError, match=r"fill must be in \[1, 4\], got 8"):
        RunningQuantile(Loss(), window=4)


def test_one_window_for_the_corpus_compares_environments_with_each_other() -> None:
    arbiter = RunningQuantile(Loss(), fill=1, thresholds="corpus")
    losses = torch.tensor([1.0, 2.0, 8.0, 9.0])
    both = replace(candidates(4), environments=("shop", "shop", "mock", "mock"), losses=losses)
    assert routes(arbiter, both) == ["sft", "sft", "grpo", "grpo"]
    assert routes(RunningQuantile(Loss(), fill=1), both) == ["sft", "grpo"] * 2


@given(st.lists(st.integers(0, 10**6).map(float), min_size=40, max_size=40, unique=True), st.sampled_from([0.25, 0.5]))
def test_running_quantile_on_one_batch_is_the_quantile_split(values: list[float], share: float) -> None:
    batch = replace(candidates(40), losses=torch.tensor(values, dtype=torch.float64))
    assert Counter(routes(RunningQuantile(Loss(), share), batch))["sft"] == 40 * share


def test_running_quantile_continues_after_a_checkpoint() -> None:
    arbiter = RunningQuantile(Concentration(), fill=1)
    arbiter.decide(candidates())
    resumed = RunningQuantile(Concentration(), fill=1)
    resumed.restore(arbiter.state())
    assert resumed == arbiter
    assert resumed.decide(candidates(3)) == arbiter.decide(candidates(3))


def test_a_refused_batch_leaves_the_running_quantile_untouched() -> None:
    arbiter = RunningQuantile(Concentration(), fill=1)
    with pytest.raises(UserError, match="trajectory t0 and 1 more"):
        arbiter.decide(replace(candidates(2), norms=torch.zeros(2, 7)))
    assert arbiter.present() == {}


def test_pass_rate_gate_explores_what_succeeds_at_times() -> None:
    assert routes(PassRateSplit(), candidates(3)) == ["sft", "grpo", "grpo"]
    assert routes(PassRateSplit(0.5), candidates(4)) == ["sft", "sft", "sft", "grpo"]


def test_constant_mix_trains_both_objectives() -> None:
    assert ConstantMix(0.25).decide(candidates(2)) == [Decision(Route.GRPO, rl_weight=0.75, ce_weight=0.25)] * 2
    assert ConstantMix(1.0).decide(candidates(1)) == [IMITATE]
    assert ConstantMix(0.0).decide(candidates(1)) == [EXPLORE]


def test_scheduled_mix_rises_and_falls() -> None:
    mix = ScheduledMix(peak=0.5, valley=0.1, warmup_steps=4, decay_steps=2)
    weights = [mix.decide(candidates(1, step))[0].ce_weight for step in range(8)]
    assert weights == pytest.approx([0.0, 0.125, 0.25, 0.375, 0.5, 0.3, 0.1, 0.1])
    assert all(mix.decide(candidates(1, step))[0].rl_weight == 1 - weights[step] for step in range(8))


def test_all_of_one_kind_and_one_after_the_other() -> None:
    assert AllSFT().decide(candidates(2)) == [IMITATE] * 2
    assert AllGRPO().decide(candidates(2)) == [EXPLORE] * 2
    assert Sequential().decide(candidates(1)) == [Decision(Route.GRPO, rl_weight=1.0, ce_weight=1.0)]


@pytest.mark.parametrize(
    ("arbiter", "needs"),
    [
        (QuantileSplit(Concentration()), "gradient norms"),
        (QuantileSplit(Magnitude()), "gradient norms"),
        (QuantileSplit(Loss()), "losses"),
        (PassRateSplit(), "pass rates"),
    ],
)
def test_a_missing_measurement_is_named(arbiter: Arbiter, needs: str) -> None:
    with pytest.raises(UserError, match=f"needs {needs}"):
        arbiter.decide(Candidates(("a", "b"), ("alfworld", "alfworld")))


def test_measurements_of_another_length_are_refused() -> None:
    with pytest.raises(UserError, match="2 trajectories came with 3 losses"):
        Candidates(("a", "b"), ("alfworld",) * 2, losses=torch.ones(3))


@pytest.mark.parametrize(
    "make",
    [
        lambda: ConstantMix(1.5),
        lambda: ScheduledMix(peak=0.1, valley=0.2),
        lambda: ScheduledMix(warmup_steps=-1),
        lambda: QuantileSplit(Loss(), share=2.0),
        lambda: RunningQuantile(Loss(), share=2.0),
        lambda: RunningQuantile(Loss(), window=1),
        lambda: RunningQuantile(Loss(), steps=0),
        lambda: PassRateSplit(-0.1),
    ],
)
def test_settings_out_of_range_are_refused(make) -> None:
    with pytest.raises(UserError, match="must be in"):
        make()
