from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from router import geometry
from trajectories.errors import UserError


def gini_reference(x: np.ndarray) -> float:
    """Half the mean absolute difference over the mean: another formula than the one under test."""
    return float(np.abs(x[:, None] - x[None]).mean() / (2 * x.mean()))


def kurtosis_reference(x: np.ndarray) -> float:
    return float(((x - x.mean()) ** 4).mean() / ((x - x.mean()) ** 2).mean() ** 2)


def cv_reference(x: np.ndarray) -> float:
    return float(np.std(x) / np.mean(x))


def hoyer_reference(x: np.ndarray) -> float:
    root = np.sqrt(len(x))
    return float((root - np.abs(x).sum() / np.sqrt((x**2).sum())) / (root - 1))


def entropy_reference(x: np.ndarray) -> float:
    share = x[x > 0] / x.sum()
    return float(-(share * np.log(share)).sum() / np.log(len(x)))


def top_share_reference(x: np.ndarray) -> float:
    return float(np.sort(x)[::-1][: math.ceil(0.1 * len(x))].sum() / x.sum())


REFERENCES: dict[str, tuple[geometry.Statistic, Callable[[np.ndarray], float]]] = {
    "gini": (geometry.gini, gini_reference),
    "kurtosis": (geometry.kurtosis, kurtosis_reference),
    "coefficient_of_variation": (geometry.coefficient_of_variation, cv_reference),
    "hoyer": (geometry.hoyer, hoyer_reference),
    "entropy": (geometry.entropy, entropy_reference),
    "top_share": (geometry.top_share, top_share_reference),
}
UPPER_BOUNDS = {
    "gini": lambda n: 1 - 1 / n,
    "kurtosis": lambda n: n - 2 + 1 / (n - 1),
    "coefficient_of_variation": lambda n: math.sqrt(n - 1),
    "hoyer": lambda n: 1.0,
    "entropy": lambda n: 1.0,
    "top_share": lambda n: 1.0,
}
LOWER_BOUNDS = {"kurtosis": lambda n: 1.0, "top_share": lambda n: math.ceil(0.1 * n) / n}

every_statistic = pytest.mark.parametrize("name", REFERENCES)
# Whole numbers, not all equal: a scale cannot make two of them equal by rounding.
rows = st.lists(st.integers(0, 1000), min_size=2, max_size=40).filter(lambda row: len(set(row)) > 1)


def apply(name: str, *row_values: Sequence[float]) -> list[float]:
    return REFERENCES[name][0](np.array(row_values, dtype=float), None).tolist()


@every_statistic
@given(row=rows)
def test_equals_the_numpy_reference_and_keeps_its_range(name: str, row: list[int]) -> None:
    (value,) = apply(name, row)
    assert value == pytest.approx(REFERENCES[name][1](np.array(row, float)), rel=1e-9, abs=1e-9)
    assert value <= UPPER_BOUNDS[name](len(row)) + 1e-9
    assert value >= LOWER_BOUNDS.get(name, lambda n: 0.0)(len(row)) - 1e-9


@every_statistic
@given(row=rows, exponent=st.integers(-60, 60), order=st.randoms(use_true_random=False))
def test_neither_scale_nor_order_matters(name: str, row: list[int], exponent: int, order) -> None:
    scaled = [10.0**exponent * value for value in row]
    order.shuffle(scaled)
    assert apply(name, scaled) == pytest.approx(apply(name, row), rel=1e-9, abs=1e-9)


@every_statistic
def test_one_matrix_with_everything_is_the_most_concentrated(name: str) -> None:
    concentrated, spread = apply(name, [0, 0, 0, 0, 0, 0, 9], [1, 2, 3, 4, 3, 2, 1])
    assert concentrated < spread if name == "entropy" else concentrated > spread
    assert concentrated == pytest.approx(0.0 if name == "entropy" else UPPER_BOUNDS[name](7))


@pytest.mark.parametrize("name", geometry.CONCENTRATION)
def test_what_a_configuration_can_name_rises_with_concentration(name: str) -> None:
    concentrated, spread = geometry.CONCENTRATION[name](np.array([[0, 0, 0, 9.0], [1, 2, 3, 4.0]]), None).tolist()
    assert concentrated > spread


def test_worked_examples() -> None:
    assert apply("gini", [3, 1, 2]) == pytest.approx([2 / 9])
    assert apply("gini", [5, 5, 5]) == apply("coefficient_of_variation", [5, 5, 5]) == [0.0]
    assert apply("hoyer", [5, 5, 5]) == pytest.approx([0.0])
    assert apply("entropy", [5, 5, 5]) == pytest.approx([1.0])
    assert apply("kurtosis", [1, -1 + 2, 3, 3]) == pytest.approx([1.0])


@every_statistic
def test_torch_in_torch_out_with_one_value_a_row(name: str) -> None:
    norms = torch.rand(5, 14, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    before = norms.clone()
    values = REFERENCES[name][0](norms, None)
    assert values.shape == (5,)
    assert values.dtype == torch.float64
    assert torch.equal(norms, before)
    assert values[3] == REFERENCES[name][0](norms[3:4], None)[0]


@every_statistic
@pytest.mark.parametrize(
    ("row", "said"),
    [
        ([0.0, 0.0, 0.0], "gradient of zero"),
        ([1.0, math.nan, 2.0], "not finite"),
        ([1.0, math.inf, 2.0], "not finite"),
        ([1.0, -1.0, 2.0], "negative"),
    ],
)
def test_a_degenerate_trajectory_is_named(name: str, row: list[float], said: str) -> None:
    norms = np.array([[1.0, 2.0, 3.0], row, [3.0, 2.0, 1.0], row])
    with pytest.raises(UserError, match=rf"trajectory ep-1 and 1 more has .*{said}") as error:
        REFERENCES[name][0](norms, ("ep-0", "ep-1", "ep-2", "ep-3"))
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="trajectory in row 1"):
        REFERENCES[name][0](norms, None)


def test_kurtosis_of_equal_norms_is_refused() -> None:
    with pytest.raises(UserError, match=r"trajectory b has equal norms .* use gini"):
        geometry.kurtosis(np.array([[1.0, 2.0], [0.3, 0.3]]), ("a", "b"))


@every_statistic
@pytest.mark.parametrize("shape", [(3,), (3, 1), (2, 3, 4)])
def test_other_shapes_are_refused(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="must be \\[trajectories, matrices >= 2\\]"):
        REFERENCES[name][0](torch.ones(shape), None)


def test_a_wrong_number_of_ids_is_refused() -> None:
    with pytest.raises(UserError, match="2 ids were given for gradient norms of 1"):
        geometry.gini(torch.ones(1, 3), ("a", "b"))


def test_per_entry_divides_by_the_root_of_the_size() -> None:
    assert geometry.per_entry(torch.tensor([[2.0, 3.0]]), (4, 9)).tolist() == [[1.0, 1.0]]
