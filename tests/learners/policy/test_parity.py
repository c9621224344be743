from __future__ import annotations

import numpy as np
import pytest

from learners.policy.parity import check_parity, check_unchanged, parity_error
from trajectories.errors import RunError

ZEROS = np.zeros(3, np.float32)
MASK = np.array([False, True, True])


def test_the_error_is_the_largest_difference_over_trained_tokens() -> None:
    engine = np.array([9.0, -1.0, -2.5], np.float32)
    learner = np.array([0.0, -1.0, -2.0], np.float32)
    assert parity_error([engine, ZEROS], [learner, ZEROS], [MASK, MASK]) == 0.5


def test_values_that_are_not_finite_are_an_infinite_error() -> None:
    assert parity_error([np.array([0, np.nan, 0], np.float32)], [ZEROS], [MASK]) == np.inf
    assert parity_error([np.array([np.nan, 0, 0], np.float32)], [ZEROS], [MASK]) == 0.0


def test_a_check_that_compares_nothing_is_refused() -> None:
    with pytest.raises(RunError, match="no trained token"):
        parity_error([ZEROS], [ZEROS], [np.zeros(3, bool)])
    with pytest.raises(RunError, match="has 3 tokens; learner scored 3, engine 2"):
        parity_error([ZEROS[:2]], [ZEROS], [MASK])


@pytest.mark.parametrize("error", [2e-3, np.inf, np.nan])
def test_above_the_tolerance_the_run_stops(error: float) -> None:
    check_parity(1e-4, 1e-3, 7)
    with pytest.raises(RunError, match="version 7"):
        check_parity(error, 1e-3, 7)


@pytest.mark.parametrize(
    ("error", "noise"), [(0.037, 5e-7), (1.1e-5, 0.0), (0.037, 9e-3), (np.inf, 0.0), (np.nan, 0.0)]
)
def test_unchanged_weights_that_change_something_stop_the_run(error: float, noise: float) -> None:
    """0.037 is what a tiny Qwen3-MoE moved by: too little for the parity check of a GPU's preset."""
    check_unchanged(5e-7, 0.0)
    check_unchanged(0.03, 9e-3)
    with pytest.raises(RunError, match="publishing unchanged weights moved"):
        check_unchanged(error, noise)
