from __future__ import annotations

import numpy as np
import pytest

from learners.policy.parity import Parity, ParityWatch, check_unchanged
from trajectories.errors import RunError

ZEROS = np.zeros(3, np.float32)
MASK = np.array([False, True, True])


def test_differences_are_told_by_mean_percentile_and_most_over_trained_tokens() -> None:
    engine = np.array([9.0, -1.0, -2.5], np.float32)
    learner = np.array([0.0, -1.0, -2.0], np.float32)
    found = Parity.of([engine, ZEROS], [learner, ZEROS], [MASK, MASK])
    assert (found.mean, found.p99, found.largest) == pytest.approx((0.125, 0.485, 0.5))


def test_values_that_are_not_finite_are_an_infinite_difference() -> None:
    assert Parity.of([np.array([0, np.nan, 0], np.float32)], [ZEROS], [MASK]).p99 == np.inf
    assert Parity.of([np.array([np.nan, 0, 0], np.float32)], [ZEROS], [MASK]).largest == 0.0


def test_a_check_that_compares_nothing_is_refused() -> None:
    with pytest.raises(RunError, match="no trained token"):
        Parity.of([ZEROS], [ZEROS], [np.zeros(3, bool)])
    with pytest.raises(RunError, match="has 3 tokens; learner scored 3, engine 2"):
        Parity.of([ZEROS[:2]], [ZEROS], [MASK])


@pytest.mark.parametrize("p99", [2e-3, np.inf, np.nan])
@pytest.mark.parametrize(("tolerance", "dtype"), [(None, "float32"), (1e-3, "bfloat16")])
def test_above_the_tolerance_the_run_stops_and_says_what_was_compared(p99, tolerance, dtype) -> None:
    watch = ParityWatch(tolerance, dtype, pytest.fail)
    found = watch.check(Parity(1e-5, 1e-4, 0.1), 7)
    assert found == {"parity_mean": 1e-5, "parity_p99": 1e-4, "parity_error": 0.1, "parity_used": pytest.approx(0.1)}
    with pytest.raises(RunError, match=r"version 7 .* nats at the 99th percentile of the parity seq.* \(mean"):
        watch.check(Parity(p99, p99, p99), 7)


def test_in_bfloat16_the_first_publication_tells_what_is_borne_and_more_is_told_once() -> None:
    told: list[str] = []
    watch = ParityWatch(None, "bfloat16", told.append)
    assert watch.check(Parity(0.01, 0.1, 1.3), 0)["parity_used"] == pytest.approx(0.25)
    watch.check(Parity(0.01, 0.39, 2.0), 1)
    assert not told
    for version in (2, 3):
        assert watch.check(Parity(0.1, 0.8, 2.0), version)["parity_used"] == pytest.approx(2.0)
    assert len(told) == 1 and "the run goes on, set schedule.parity_tolerance to have it end" in told[0]
    with pytest.raises(RunError, match="inf"):
        watch.check(Parity(np.inf, np.inf, np.inf), 4)


@pytest.mark.parametrize(
    ("error", "noise"), [(0.037, 5e-7), (1.1e-5, 0.0), (0.037, 9e-3), (np.inf, 0.0), (np.nan, 0.0)]
)
def test_unchanged_weights_that_change_something_stop_the_run(error: float, noise: float) -> None:
    """0.037 is what a tiny Qwen3-MoE moved by: too little for the parity check of a GPU's preset."""
    check_unchanged(5e-7, 0.0)
    check_unchanged(0.03, 9e-3)
    with pytest.raises(RunError, match="publishing unchanged weights moved"):
        check_unchanged(error, noise)
