"""Goals, prices and splits: canonical, frozen, and never leaking from one split into another."""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs import load_panel, make_environment
from envs.webshop import WebShopEnvironment, open_catalogue
from envs.webshop.goals import SPLITS, canonical_order, combination, make_goal, split_range, synthetic_variants
from envs.webshop.prices import CAPS, NO_CAP, cap_text, draw_cap, draw_prices
from envs.webshop.products import parse_prices, parse_product
from tests.data import require
from tests.envs.webshop.conftest import WEBSHOP_DATA
from tests.envs.webshop.rows import annotation, product_row, write_data
from trajectories.errors import UserError

HUMAN = {
    "instruction": "i need a wool hat.",
    "instruction_attributes": ["warm wool"],
    "instruction_options": ["red"],
}


def test_synthetic_goals_are_the_cartesian_product_by_option_name() -> None:
    options = {"size": ["s", "m"], "color": ["red", "blue", "green"], "fit": ["slim"]}
    row = product_row(customization_options={name: [{"value": v} for v in values] for name, values in options.items()})
    product = parse_product(row, annotation())
    names = sorted(options)
    expected = [
        tuple(zip(names, values, strict=True)) for values in itertools.product(*(options[name] for name in names))
    ]
    assert [combination(product, variant) for variant in range(6)] == expected


def test_goal_texts() -> None:
    product = parse_product(product_row(), annotation(), [HUMAN])
    synthetic = make_goal("synthetic", 3, product, 1, 40.0)
    assert (
        synthetic.instruction
        == "Find me warm wool hats with color: dark | blue, and size: 9, and price lower than 40.00 dollars"
    )
    assert synthetic.options == (("color", "dark | blue"), ("size", "9"))
    human = make_goal("human", 0, product, 0, NO_CAP)
    assert (human.instruction, human.options) == ("i need a wool hat", ("red",))
    plain = parse_product(product_row(customization_options=""), annotation())
    assert make_goal("synthetic", 0, plain, 0, NO_CAP).instruction == "Find me warm wool hats"


@pytest.mark.parametrize(
    ("pricing", "expected"),
    [
        (None, ()),
        ("", ()),
        ("$5", (5.0,)),
        ("$1,299.00", (1299.0,)),
        ("$15.99 - $32.99", (15.99, 32.99)),
        ("$1 $2 $3", (1.0, 2.0)),
        ("$1.299,00", (1.299,)),  # the original drops commas, also where they are decimal ones
    ],
)
def test_prices_are_read_as_the_original_does(pricing: object, expected: tuple[float, ...]) -> None:
    assert parse_prices(pricing) == expected


def test_one_price_is_kept_a_range_is_drawn_within_and_none_is_a_hundred() -> None:
    one, several, none = (
        parse_product(product_row(pricing=pricing), annotation()) for pricing in ("$5", "$5 - $9", None)
    )
    assert draw_prices(one).price == 5.0
    assert 5.0 <= draw_prices(several).price <= 9.0
    assert draw_prices(several) == draw_prices(several)
    assert draw_prices(none).price == 100.0
    assert (one.price_tag, several.price_tag, none.price_tag) == ("$5.0", "$5.0 to $9.0", "$100.0")


@given(st.floats(0, 1200), st.integers())
def test_caps_are_above_the_price_and_among_the_next_four(price: float, seed: int) -> None:
    cap = draw_cap(price, random.Random(seed))
    above = [tens for tens in CAPS if tens > price][:4]
    if len(above) < 2:
        assert (cap, cap_text(cap)) == (NO_CAP, "")
    else:
        assert cap in above[1:]
        assert cap_text(cap) == f", and price lower than {cap:.2f} dollars"


def test_the_order_depends_on_the_number_of_goals_alone() -> None:
    expected = list(range(6910))
    random.seed(233)
    random.shuffle(expected)
    assert canonical_order(6910).tolist() == expected


@given(st.integers(0, 5000))
def test_splits_cover_all_goals_without_overlap(count: int) -> None:
    parts = [split_range(split, count) for split in SPLITS]
    assert list(itertools.chain(*parts)) == list(range(count))


def test_unknown_splits_are_named() -> None:
    with pytest.raises(UserError, match="no split 'valid'; choose one of test, dev, train"):
        load_panel("webshop/valid")


def test_a_small_catalogue_says_how_many_goals_a_split_needs(tmp_path: Path) -> None:
    asins = [f"B{number:09}" for number in range(20)]
    data = write_data(tmp_path, [product_row(asin) for asin in asins], dict.fromkeys(asins, annotation()))
    assert len(load_panel("webshop/test", data).task_ids) == 40
    for split, first in (("dev", 500), ("train", 1500)):
        with pytest.raises(
            UserError,
            match=f"^webshop/{split} has no tasks: its goals begin with number {first}, but a catalogue of 20 gives 40 "
            f"synthetic goals: give products with more than {first}",
        ):
            load_panel(f"webshop/{split}", data)


def test_panels_hold_the_published_ranges(shop: WebShopEnvironment) -> None:
    test, dev, train = (load_panel(f"webshop/{split}") for split in SPLITS)
    assert test.task_ids == tuple(map(str, range(500)))
    assert dev.task_ids == tuple(map(str, range(500, 1500)))
    assert train.task_ids == tuple(map(str, range(1500, shop.catalogue.goal_count("synthetic"))))
    assert len(train.task_ids) > 1000
    assert len({test.hash, dev.hash, train.hash}) == 3


def test_no_training_goal_is_seen_in_test_or_dev_however_workers_are_seeded_or_counted(
    shop: WebShopEnvironment,
) -> None:
    """The published stack shuffles by worker and seed, so that training goals turn up in the test split."""
    evaluated = {*load_panel("webshop/test").task_ids, *load_panel("webshop/dev").task_ids}
    train = load_panel("webshop/train").task_ids

    def worker(seed: int) -> dict[str, str]:
        random.seed(seed)
        environment = make_environment("webshop")
        assert isinstance(environment, WebShopEnvironment)
        texts = {}
        for task_id in [*random.sample(train, 40), "0", "499", "500", "1499"]:
            environment.reset(task_id, seed=seed)
            texts[task_id] = environment.goal.instruction
        return texts

    seen: dict[str, str] = {}
    for workers in (1, 3, 8):
        with ThreadPoolExecutor(workers) as pool:
            for texts in pool.map(worker, range(workers)):
                assert all(seen.setdefault(task_id, text) == text for task_id, text in texts.items())
    assert not evaluated & (set(seen) - {"0", "499", "500", "1499"})


@pytest.mark.parametrize("hash_seed", ["0", "1"])
def test_panel_hash_is_the_same_in_other_processes_and_caches(
    tmp_path: Path, shop: WebShopEnvironment, hash_seed: str
) -> None:
    code = "from envs import load_panel; print(load_panel('webshop/test').hash)"
    variables = {**os.environ, "PYTHONHASHSEED": hash_seed, "CONCERTO_CACHE": str(tmp_path)}
    other = subprocess.run(
        [sys.executable, "-c", code], env=variables, capture_output=True, text=True, timeout=120, check=True
    )
    assert other.stdout.strip() == load_panel("webshop/test").hash


def test_the_default_panels_are_pinned(shop: WebShopEnvironment) -> None:
    """Results on them can be compared for as long as these hashes stay."""
    assert load_panel("webshop/test").hash == "cd5c7ad07211c5125392a14c19f89f5651b40049282a53708a6da6c4249adafe"


def test_the_canonical_panels_are_pinned() -> None:
    assert (
        load_panel("webshop/test", require(WEBSHOP_DATA)).hash
        == "d3fd8887df8e729000b603552d4aff2eaae55c6516c62a5e30fc19af9088d460"
    )


def test_human_goals(original: WebShopEnvironment) -> None:
    environment = WebShopEnvironment(WEBSHOP_DATA, goals="human")
    assert environment.catalogue.goal_count("human") == 13
    environment.reset("12")
    assert all(isinstance(option, str) for option in environment.goal.options)
    with pytest.raises(UserError, match="no WebShop task '13'"):
        environment.reset("13")


def test_data_without_human_goals_say_so(shop: WebShopEnvironment) -> None:
    with pytest.raises(UserError, match="the generated catalogue has no human goals; choose"):
        WebShopEnvironment("generated", goals="human")


def test_frozen_prices_travel_with_the_data(tmp_path: Path) -> None:
    products = [product_row(pricing="$5 - $50"), product_row("B000000002")]
    notes = {"B000000001": annotation()}
    drawn = open_catalogue(write_data(tmp_path / "drawn", products, notes, {"B000000001": [HUMAN]}))
    frozen = json.loads(drawn.frozen_prices.read_text())
    frozen["products"]["B000000001"] = [7.25, 990.0, [20.0]]
    kept = write_data(tmp_path / "kept", products, notes, {"B000000001": [HUMAN]})
    (kept / "prices.json").write_text(json.dumps(frozen))
    catalogue = open_catalogue(kept)
    assert catalogue.price(0) == 7.25
    assert catalogue.goal("synthetic", 0).price_upper == 990.0
    assert catalogue.goal("human", 0).price_upper == 20.0
    assert catalogue.manifest.content_hash != drawn.manifest.content_hash


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"products": []}', '{"products": {}}', '{"products": {"B000000001": [1.0, null, []]}}']
)
def test_frozen_prices_that_do_not_fit_are_refused(tmp_path: Path, content: str) -> None:
    folder = write_data(tmp_path, [product_row()], {"B000000001": annotation()})
    (folder / "prices.json").write_text(content)
    with pytest.raises(UserError, match=r"prices\.json .*delete it"):
        open_catalogue(folder)


def test_a_product_with_countless_variants_gives_no_synthetic_goals() -> None:
    def product(options: int):
        contents = {f"option {number}": [{"value": str(value)} for value in range(10)] for number in range(options)}
        return parse_product(product_row(customization_options=contents), annotation())

    assert synthetic_variants(product(6)) == 1_000_000
    assert synthetic_variants(product(7)) == 0
    assert synthetic_variants(parse_product(product_row())) == 0
