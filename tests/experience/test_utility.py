"""What paired outcomes say about experience."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experience.records import Experience, Item
from experience.utility import Pair, is_harmful, item_utilities, must_roll_back, ranked, utility, without_harm

NO_ITEMS: frozenset[str] = frozenset()
shares = st.integers(0, 4).map(lambda successes: successes / 4)
pairs = st.lists(st.builds(Pair, st.just(NO_ITEMS), shares, shares, st.floats(0, 50)), max_size=30)


def numpy_utility(pairs: list[Pair], half_life: float) -> tuple[float, float, float, float]:
    """The formula of the docstring, by columns."""
    d = np.array([pair.with_experience - pair.without for pair in pairs])
    w = 0.5 ** (np.array([pair.age for pair in pairs]) / half_life)
    n = w.sum() + 2
    m, v = (w * d).sum() / n, ((w * d**2).sum() + 1) / n - ((w * d).sum() / n) ** 2
    half = 1.959963984540054 * np.sqrt(v / n)
    mean = (w * d).sum() / w.sum() if pairs else 0.0
    return mean, max(-1.0, m - half), min(1.0, m + half), w.sum()


@given(pairs, st.floats(0.5, 100))
def test_the_vectorised_formula_agrees(pairs: list[Pair], half_life: float) -> None:
    found = utility(pairs, half_life)
    assert (found.difference, found.low, found.high, found.pairs) == pytest.approx(numpy_utility(pairs, half_life))


@given(pairs)
def test_the_interval_stays_within_what_is_possible_and_turns_with_the_arms(pairs: list[Pair]) -> None:
    found = utility(pairs)
    turned = utility([replace(p, with_experience=p.without, without=p.with_experience) for p in pairs])
    assert -1 <= found.low < found.high <= 1
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low))


def test_without_pairs_nothing_is_known() -> None:
    found = utility([])
    assert found.difference == 0 and found.low < -0.6 and found.high > 0.6


def test_evidence_fades_with_age() -> None:
    fresh = [Pair(NO_ITEMS, 0.0, 1.0)] * 10
    old = [replace(pair, age=30.0) for pair in fresh]
    assert is_harmful(utility(fresh, half_life=10.0)) and not is_harmful(utility(old, half_life=10.0))
    assert utility(old, half_life=10.0).pairs == pytest.approx(10 / 8)


def test_a_later_gain_outweighs_an_older_loss() -> None:
    played = [Pair(NO_ITEMS, 0.0, 1.0, age=20.0)] * 8 + [Pair(NO_ITEMS, 1.0, 0.0)] * 8
    assert utility(played).difference == 0 and utility(played, half_life=5.0).difference > 0.8


def test_a_planted_good_item_ranks_above_a_planted_bad_one_and_only_the_bad_one_is_rolled_back() -> None:
    """Both are shown at random, so that every pair has the one, the other, both or a third only."""
    good, bad, new = (Item.of("type", text) for text in ("look before you leap", "always answer A", "not tried yet"))
    chance = random.Random(3)
    played = []
    for _ in range(200):
        shown = frozenset(item.id for item in (good, bad) if chance.random() < 0.5)
        success = 0.5 + 0.3 * (good.id in shown) - 0.4 * (bad.id in shown)
        arms = [sum(chance.random() < rate for _ in range(4)) / 4 for rate in (success, 0.5)]
        played.append(Pair(shown, *arms))
    utilities = item_utilities([good.id, bad.id, new.id], played)
    assert ranked([bad, new, good], utilities) == (good, new, bad)
    assert utilities[good.id].low > utilities[bad.id].high
    assert without_harm(Experience((bad, good), (new, bad)), utilities) == Experience((good,), (new,))


def test_five_bad_pairs_are_not_yet_harm_but_six_are() -> None:
    assert not is_harmful(utility([Pair(NO_ITEMS, 0.0, 1.0)] * 5))
    assert is_harmful(utility([Pair(NO_ITEMS, 0.0, 1.0)] * 6))


@pytest.mark.parametrize(("fallen", "expected"), [(0, False), (3, False), (12, True)])
def test_a_state_is_rolled_back_where_the_replay_falls_beyond_chance(fallen: int, expected: bool) -> None:
    before = [1.0] * 20
    assert must_roll_back(before, [0.0] * fallen + [1.0] * (20 - fallen)) is expected
