"""The estimators against their definitions: enumeration, numpy, and simulated panels."""

from __future__ import annotations

import doctest
import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.reporting import estimators
from cluster.reporting.estimators import (
    Z_95,
    clustered_rate,
    mcnemar,
    paired_difference,
    pass_at_k,
    powers_of_two,
    t_interval,
    wilson_rate,
)

PLAYED = st.lists(st.integers(1, 6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), min_size=2)
"""Successes and episodes of each task."""


def test_the_worked_examples_in_the_docstrings_hold():
    failed, tried = doctest.testmod(estimators)
    assert tried and not failed


@given(st.integers(1, 500), st.data())
def test_wilson_bounds_are_the_roots_of_its_equation(episodes, data):
    wins = data.draw(st.integers(0, episodes))
    rate = wilson_rate(wins, episodes)
    for bound in (rate.low, rate.high):
        error = np.sqrt(bound * (1 - bound) / episodes) * Z_95
        assert abs(rate.rate - bound) == pytest.approx(error, abs=1e-7)


def test_wilson_known_value_and_no_episodes():
    rate = wilson_rate(64, 128)
    assert (round(rate.low, 4), round(rate.high, 4)) == (0.4147, 0.5853)
    for nothing in (wilson_rate(0, 0), clustered_rate([], [])):
        assert (nothing.low, nothing.high) == (0.0, 1.0)


@given(st.lists(st.booleans(), min_size=1))
def test_one_episode_a_task_has_wilsons_own_interval(solved):
    assert clustered_rate(solved, [1] * len(solved)) == wilson_rate(sum(solved), len(solved))


@given(PLAYED)
def test_the_clustered_interval_is_wilsons_of_the_effective_size(played):
    c, n = np.array(played).T
    rate, p, m = clustered_rate(c.tolist(), n.tolist()), c.sum() / n.sum(), len(c)
    variance = m / (m - 1) * ((c - n * p) ** 2).sum() / n.sum() ** 2  # what a cluster-robust regression on 1 gives
    worth = m if p in (0, 1) else np.clip(p * (1 - p) / max(variance, 1e-300), m, n.sum())
    for bound in (rate.low, rate.high):
        assert abs(p - bound) == pytest.approx(np.sqrt(bound * (1 - bound) / worth) * Z_95, abs=1e-7)
    assert 0 <= rate.low <= rate.rate <= rate.high <= 1


def test_copies_of_an_episode_do_not_narrow_the_interval_and_fresh_ones_do():
    once = wilson_rate(40, 100)
    copied = clustered_rate([8] * 40 + [0] * 60, [8] * 100)
    fresh = clustered_rate(np.random.default_rng(0).binomial(8, 0.4, 100).tolist(), [8] * 100)
    assert copied.high - copied.low == pytest.approx(once.high - once.low, rel=0.01)
    assert fresh.high - fresh.low < 0.5 * (once.high - once.low)


@pytest.mark.parametrize("difficulty", [(0.3, 0.3), (2.0, 6.0)])
def test_the_clustered_interval_covers_the_truth_as_often_as_it_says(difficulty):
    """Tasks differ: each has its own chance of success, drawn from a beta distribution."""
    generator, truth, covered = np.random.default_rng(1), difficulty[0] / sum(difficulty), 0
    for _ in range(1000):
        wins = generator.binomial(4, generator.beta(*difficulty, size=100))
        rate = clustered_rate(wins.tolist(), [4] * 100)
        covered += rate.low <= truth <= rate.high
    assert 0.93 <= covered / 1000 <= 0.98


@given(st.integers(1, 7), st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_success(n, data):
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    samples = [at < c for at in range(n)]
    subsets = [any(chosen) for chosen in itertools.combinations(samples, k)]
    assert pass_at_k([c], [n], k) == pytest.approx(sum(subsets) / len(subsets))


@given(st.lists(st.integers(0, 8), min_size=1))
def test_pass_at_k_is_a_mean_over_tasks_that_starts_at_pass_at_1_and_never_falls(successes):
    episodes = [8] * len(successes)
    shares = [pass_at_k(successes, episodes, k) for k in powers_of_two(8)]
    assert len(shares) == 4 and shares == sorted(shares)
    assert shares[0] == pytest.approx(clustered_rate(successes, episodes).rate)
    assert shares[-1] == pytest.approx(np.mean([c > 0 for c in successes]))


@pytest.mark.parametrize(("episodes", "k"), [([4, 2], 3), ([4], 0), ([], 1)])
def test_more_tries_than_episodes_are_refused(episodes, k):
    with pytest.raises(ValueError, match=f"pass@{k} needs"):
        pass_at_k([1] * len(episodes), episodes, k)


@pytest.mark.parametrize("changed", range(9))
def test_mcnemar_counts_all_ways_in_which_the_changes_could_have_fallen(changed):
    ways = list(itertools.product([0, 1], repeat=changed))
    for won in range(changed + 1):
        before = [False] * won + [True] * (changed - won) + [True, False]
        now = [True] * won + [False] * (changed - won) + [True, False]
        result = mcnemar(before, now)
        as_far = sum(abs(2 * sum(way) - changed) >= abs(2 * won - changed) for way in ways) / len(ways)
        assert (result.won, result.lost) == (won, changed - won)
        assert result.p == pytest.approx(as_far)


def test_mcnemar_is_exact_for_large_panels():
    """A chi-squared test would say 2.1e-6 without its correction; the exact one is a sum of 1,000-bit binomials."""
    result = mcnemar([True] * 400 + [False] * 600, [False] * 400 + [True] * 600)
    expected = 2 * sum(math.comb(1000, at) for at in range(401)) / 2**1000
    assert result.p == expected < 1e-9


SHARES = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60)


@given(SHARES)
def test_the_bootstrap_is_repeatable_and_turns_its_sign_with_the_order(pairs):
    before, now = ([share / 4 for share in side] for side in zip(*pairs, strict=True))
    there, back = paired_difference(before, now), paired_difference(now, before)
    assert there == paired_difference(before, now)
    assert there.difference == pytest.approx(-back.difference) == pytest.approx(np.mean(now) - np.mean(before))
    assert there.low <= there.high


def test_the_bootstrap_is_that_of_drawing_tasks_one_by_one():
    generator = np.random.default_rng(2)
    before, now = generator.integers(0, 5, size=(2, 80)) / 4
    found = paired_difference(before.tolist(), now.tolist())
    picks = generator.integers(0, 80, size=(20_000, 80))
    means = (now[picks] - before[picks]).mean(axis=1)
    assert (found.low, found.high) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.008)
    assert found.difference == pytest.approx((now - before).mean())


def test_pairing_sees_what_two_intervals_do_not():
    """Every task has the same small gain, whatever its difficulty."""
    before, now = [0, 1, 2, 3] * 25, [1, 2, 3, 4] * 25
    first, second = clustered_rate(before, [4] * 100), clustered_rate(now, [4] * 100)
    assert paired_difference([c / 4 for c in before], [c / 4 for c in now]).low == 0.25
    assert first.high - first.low > 0.1 < second.high - second.low


@pytest.mark.parametrize("compare", [mcnemar, paired_difference])
def test_results_of_other_tasks_are_not_paired(compare):
    with pytest.raises(ValueError, match="zip"):
        compare([True], [True, False])


def test_without_tasks_nothing_differs():
    assert (mcnemar([], []).p, str(paired_difference([], []))) == (1.0, "+0.000 [+0.000, +0.000]")


def test_one_value_has_no_t_interval():
    assert all(math.isnan(end) for end in t_interval([0.5]))
