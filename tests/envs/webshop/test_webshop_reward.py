"""The reward, branch by branch."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rapidfuzz.fuzz import token_set_ratio

from envs.webshop.goals import Goal
from envs.webshop.prices import NO_CAP
from envs.webshop.products import Product
from envs.webshop.reward import (
    matched_attributes,
    matched_options,
    normalize_color,
    score_purchase,
    similar,
    type_reward,
)

GOAL = Goal(
    index=0,
    instruction="",
    asin="A",
    product_title="Wool Hat Winter Cap Beanie",
    query="hats",
    attributes=("warm wool",),
    options=(("color", "red"),),
    price_upper=30.0,
    category_path="Clothing › Hats › Wool",
    nouns=("wool", "hat", "winter", "cap", "beanie"),
)
BOUGHT = Product(
    asin="B",
    title="Warm Wool Hat",
    description="Knitted by hand.",
    bullets=("Machine wash", "Long lasting"),
    listed_prices=(20.0,),
    options=(("color", ("red", "blue")),),
    query="hats",
    category_path="Clothing › Hats › Wool",
    attributes=("wool warm",),
    nouns=("wool", "hat", "winter", "cap", "beanie"),
)


@pytest.mark.parametrize(
    ("query", "path", "nouns", "expected"),
    [
        ("hats", "Other", ("wool", "hat"), 1.0),  # same query
        ("caps", "Clothing › Hats › Felt", ("wool",), 1.0),  # two components of the category
        ("caps", "Hats › Clothing", ("wool",), 1.0),  # in any order
        ("caps", "Clothing › Shoes", ("wool", "hat"), 1.0),  # title above 0.2
        ("caps", "Clothing › Shoes", ("wool",), 0.5),  # one component, title exactly 0.2
        ("caps", "Other", ("wool", "shoe"), 0.5),
        ("hats", "Clothing › Hats › Wool", ("shoe",), 0.0),  # no shared noun overrides a same query
        ("hats", "Clothing › Hats › Wool", (), 0.0),
    ],
)
def test_type_rules(query: str, path: str, nouns: tuple[str, ...], expected: float) -> None:
    assert type_reward(replace(BOUGHT, query=query, category_path=path, nouns=nouns), GOAL) == expected


def test_few_shared_nouns_override_a_same_query() -> None:
    goal = replace(GOAL, nouns=tuple(f"noun{number}" for number in range(11)))
    assert type_reward(replace(BOUGHT, nouns=("noun3",)), goal) == 0.1


@pytest.mark.parametrize(("count", "expected"), [(9, 1.0), (10, 1.0), (11, 0.1)])
def test_one_shared_noun_of_ten_is_enough_for_the_same_query(count: int, expected: float) -> None:
    goal = replace(GOAL, nouns=tuple(f"noun{number}" for number in range(count)))
    assert type_reward(replace(BOUGHT, nouns=("noun3",)), goal) == expected


def test_repeated_goal_nouns_count_in_the_denominator_only() -> None:
    goal = replace(GOAL, nouns=("hat",) * 11)
    assert type_reward(replace(BOUGHT, nouns=("hat", "hat")), goal) == 0.1


@pytest.mark.parametrize(("query", "expected"), [("hats", 1.0), ("caps", 0.5)])
def test_a_goal_title_without_nouns_counts_as_one_fifth(query: str, expected: float) -> None:
    assert type_reward(replace(BOUGHT, query=query, category_path="Other"), replace(GOAL, nouns=())) == expected


@pytest.mark.parametrize(
    ("wanted", "count"),
    [
        (("warm wool",), 1),  # same words in another order
        (("machine wash",), 1),  # in the bullet points
        (("wash long",), 1),  # across two of them: they are joined with a space
        (("by hand",), 1),  # in the description
        (("warm wool hat",), 1),  # in the title; and similar to an attribute
        (("Warm Wool Hat",), 1),
        (("leather",), 0),
        (("By Hand",), 0),  # texts are lower-cased, the wanted attribute is not
        (("warm wool", "leather"), 1),
    ],
)
def test_attributes_match_by_similarity_or_in_the_texts(wanted: tuple[str, ...], count: int) -> None:
    assert matched_attributes(BOUGHT, wanted) == count


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("dark blue", "blue"),  # "blue" is before "dark" in the list
        ("steelivy fuchsia", "fuchsia"),
        ("violet lavender", "lavender"),
        ("123alabaster", "alabaster"),
        ("charcoal", "charcoal"),
        ("large", "large"),
        ("", ""),
    ],
)
def test_colours_are_normalised(value: str, expected: str) -> None:
    assert normalize_color(value) == expected


@pytest.mark.parametrize(
    ("chosen", "wanted", "count"),
    [
        (("red",), (("color", "red"),), 1),  # an element that is a colour stands for the pair
        (("navy blue",), (("color", "navy"),), 0),  # chosen becomes "blue", the pair "navy"
        (("dark red",), (("color", "dark red"),), 1),  # chosen becomes "dark", which the pair's text contains
        (("x-large",), (("size", "x-large"),), 1),  # "size x large" contains "x large"
        (("large",), (("size", "x-large"),), 1),  # so does it contain "large": the original's leniency
        (("9",), (("size", "9.5"),), 1),
        (("8",), (("size", "9.5"),), 0),
        (("1877blue",), (("color", "1877blue"),), 0),  # chosen becomes "blue": such goals cannot be won
        (("red", "x-large"), (("color", "red"), ("size", "x-large")), 2),
        (("red",), (("color", "red"), ("size", "x-large")), 1),
        ((), (("color", "red"),), 0),
        (("red",), (), 0),
        (("light red",), ("red",), 0),  # human goals: bare values; "light" is before "red"
        (("rose red",), ("red wine",), 1),
        (("120ml",), ("120ml",), 1),
        (("锅巴",), (("flavor", "锅巴"),), 0),  # the original compares ASCII only: such goals cannot be won
        (("锅巴",), ("锅巴",), 0),
        (("锅巴 red",), (("flavor", "锅巴 red"),), 1),
    ],
)
def test_options_match_as_text(chosen: tuple[str, ...], wanted: tuple, count: int) -> None:
    assert matched_options(chosen, wanted) == count


def test_similarity_ignores_order_case_punctuation_and_other_alphabets() -> None:
    assert similar("Long-Lasting!", "lasting long")
    assert similar("café noir", "caf noir")
    assert not similar("", "")
    assert not similar("锅巴", "锅巴")


@pytest.mark.parametrize(
    ("common", "first", "second", "ratio", "expected"),
    [
        (17, 1, 5, 85.0, False),
        (20, 1, 6, 85.11, False),  # thefuzz rounds before it compares
        (6, 1, 1, 85.71, True),
    ],
)
def test_similarity_is_more_than_85_after_rounding(
    common: int, first: int, second: int, ratio: float, expected: bool
) -> None:
    one, other = "a" * common + "b" * first, "a" * common + "c" * second
    assert token_set_ratio(one, other) == pytest.approx(ratio, abs=0.005)
    assert similar(one, other) is expected


def test_the_score_is_the_originals_formula() -> None:
    assert score_purchase(BOUGHT, (("color", "red"),), 20.0, GOAL).score == 1.0
    judged = score_purchase(replace(BOUGHT, query="caps", category_path="", nouns=("wool",)), (), 31.0, GOAL)
    assert (judged.type, judged.attribute, judged.option, judged.price) == (0.5, 1.0, 0.0, 0.0)
    assert judged.score == pytest.approx(0.5 * 1 / 3)
    assert not judged.success


@pytest.mark.parametrize(("price", "cap", "expected"), [(30.0, 30.0, 1.0), (30.01, 30.0, 0.0), (5000.0, NO_CAP, 1.0)])
def test_a_price_at_the_cap_is_affordable(price: float, cap: float, expected: float) -> None:
    assert score_purchase(BOUGHT, (), price, replace(GOAL, price_upper=cap)).price == expected


def test_a_goal_without_options_has_none_to_miss() -> None:
    judged = score_purchase(BOUGHT, (), 20.0, replace(GOAL, options=()))
    assert (judged.option, judged.score) == (1.0, 1.0)
