from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.analysis import agreement, goes_along, rank_stability, spearman
from trajectories.errors import UserError

columns = st.lists(st.integers(-9, 9).map(float), min_size=3, max_size=12).map(
    lambda values: {f"t{number}": value for number, value in enumerate(values)}
)


def ranks(values: list[float]) -> list[float]:
    """Average ranks, the slow way."""
    return [sum(v < x for v in values) + (sum(v == x for v in values) - 1) / 2 for x in values]


@given(columns, st.randoms())
def test_spearman_is_pearson_of_average_ranks(one: dict[str, float], random) -> None:
    other = dict(zip(one, random.sample(list(one.values()), len(one)), strict=True))
    x, y = ranks(list(one.values())), ranks(list(other.values()))
    mx, my = sum(x) / len(x), sum(y) / len(y)
    spread = math.sqrt(sum((a - mx) ** 2 for a in x) * sum((b - my) ** 2 for b in y))
    found = spearman(one, other)
    if spread == 0:
        assert math.isnan(found)
    else:
        assert found == pytest.approx(sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True)) / spread, abs=1e-9)


def test_only_common_trajectories_count() -> None:
    one = {"a": 1.0, "b": 2.0, "c": 3.0, "x": 9.0}
    assert spearman(one, {"a": 10.0, "b": 30.0, "c": 20.0, "d": 0.0}) == pytest.approx(0.5)
    with pytest.raises(UserError, match="three trajectories in common, there are 2"):
        spearman(one, {"a": 1.0, "b": 1.0})


def test_columns_and_models_are_named() -> None:
    up, down = {name: float(at) for at, name in enumerate("abcd")}, {name: -float(at) for at, name in enumerate("abcd")}
    assert goes_along(up, {"loss": up, "length": down}) == pytest.approx({"loss": 1.0, "length": -1.0})
    assert rank_stability({"base": up, "later": down, "last": up}) == pytest.approx(
        {("base", "later"): -1.0, ("base", "last"): 1.0, ("later", "last"): -1.0}
    )


def test_agreement_counts_trajectories_in_the_same_half() -> None:
    one = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}
    assert agreement(one, one) == 1.0
    assert agreement(one, {"a": 4.0, "b": 3.0, "c": 2.0, "d": 1.0}) == 0.0
    assert agreement(one, {"a": 1.0, "b": 4.0, "c": 3.0, "d": 2.0}) == 0.5
