"""Benchmarks are run by hand: here that they still fit the code, and that the copying score counts rightly."""

from __future__ import annotations

import doctest
import random
from collections import Counter
from importlib import import_module
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from benchmarks import naming
from benchmarks.copying import generate, next_actions, tabulate
from benchmarks.naming import judge_click, judge_names, judge_shopping
from benchmarks.positions import SHOP_PLACES, collect, open_games, open_shop, record, with_new_codes
from cluster.config.loading import load_config
from cluster.config.matrix import load_matrix
from cluster.inputs.models import TINY, load_tokenizer, resolve_model
from cluster.reporting.estimators import wilson_rate
from envs import load_panel
from learners.tiny.shopping import CODE
from trajectories.errors import UserError

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_configuration_fits(file: Path) -> None:
    if "arms" in yaml.safe_load(file.read_text()):
        assert load_matrix(file).runs()
    else:
        load_config("gpu", file, ["policy.model=somewhere"])


@pytest.mark.parametrize("module", sorted(file.stem for file in FOLDER.glob("*.py") if file.stem != "__init__"))
def test_every_module_imports(module: str) -> None:
    assert import_module(f"benchmarks.{module}").__doc__


def test_the_examples_of_copying_hold() -> None:
    failed, tried = doctest.testmod(naming)
    assert tried >= 10
    assert not failed


def test_a_number_counts_only_with_its_own_name() -> None:
    told = "you see a drawer 12, and a desk 1"
    assert judge_names("go to drawer 1", told) == {"name": (1, 1), "number": (0, 1), "present": (0, 1)}
    assert judge_names("go to drawer 12", told) == {"name": (1, 1), "number": (1, 1), "present": (1, 1)}


def test_codes_count_on_result_pages_and_options_on_product_pages() -> None:
    results = "Page 1 (Total results: 1) [SEP] Next > [SEP] B0X1Y2Z3A4 [SEP] Hat"
    product = "color [SEP] navy [SEP] Hat [SEP] Buy Now"
    listed = ("click[b0x1y2z3a4]",)
    small = judge_shopping("click[b0x1y2z3a4]", "", results, listed)
    assert small == {"accepted": (1, 1), "code": (0, 1), "present": (0, 1)}, "accepted, but not as it is shown"
    assert judge_shopping("click[B0X1Y2Z3A4]", "", results, listed)["code"] == (1, 1)
    assert judge_click("navy", product) == {"option": (1, 1)}
    assert judge_click("Buy Now", product) == {}
    assert judge_shopping("buy", "", product, listed) == {"accepted": (0, 1)}


def test_positions_are_a_function_of_the_seed_and_lie_where_they_say() -> None:
    positions = record(2, seed=0)
    assert positions == record(2, seed=0)
    assert set(Counter(position.place for position in positions).values()) == {2}
    for position in positions:
        said = [message["content"] for message in position.messages]
        if position.place == "game, turns 20 on":
            assert len(said) > 40
        if position.place.startswith("game, ") and position.place.endswith(("slip", "slips")):
            slips = int(position.place.split()[1])
            assert said[-1::-2][:slips] == ["Nothing happens."] * slips
            assert not set(said[-2::-2][:slips]) & set(position.admissible)


def test_shop_positions_have_new_codes_in_page_and_list_alike() -> None:
    shown = collect(open_shop(), 2, random.Random(0))
    catalogue = {name for p in shown for message in p.messages for name in CODE.findall(message["content"])}
    drawn = [with_new_codes(p, random.Random(1)) for p in shown]
    assert {p.place for p in drawn} == set(SHOP_PLACES)
    results = [p for p in drawn if p.place == "result page"]
    assert results
    for position in results:
        on_page = CODE.findall(position.messages[-1]["content"])
        assert on_page
        assert not set(on_page) & catalogue
        assert {f"click[{name}]" for name in on_page} <= set(position.admissible)


def test_no_position_is_of_an_evaluation_panel() -> None:
    games, shop = open_games(seed=0), open_shop()
    trained = set(load_panel("webshop/train", data="generated").task_ids)
    for number in range(20):
        assert int(games.begin(number, random.Random(number))[0]) == 900_000_000 + number
        assert shop.begin(number, random.Random(number))[0] in trained


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(resolve_model(TINY), dtype=torch.float32).eval()


def test_continuations_that_share_a_prompt_are_those_of_the_whole_text(model) -> None:
    chat = load_tokenizer(resolve_model(TINY))
    prompt = chat.encode(chat.render([{"role": "user", "content": "You are in a room. You see a desk 1."}]))
    found = generate(model, prompt, 4, chat.turn_end_id, torch.Generator().manual_seed(0))
    greedy: list[int] = []
    while len(greedy) < 40 and (token := _likeliest(model, prompt + greedy)) != chat.turn_end_id:
        greedy.append(token)
    assert found[0] == greedy
    assert len({tuple(tokens) for tokens in found}) > 1, "the others are drawn"


def test_a_context_that_is_too_short_is_said(model) -> None:
    with pytest.raises(UserError, match="give a model with a longer one"):
        next_actions(model, load_tokenizer(resolve_model(TINY)), [[5] * 2020], 1)


def test_shares_are_of_what_was_asked() -> None:
    positions = [p for p in record(2, seed=0) if p.place == "game, turns 0-9"]
    listed = next(action for action in positions[0].admissible if action.startswith("go to "))
    table = tabulate(positions, [[listed], ["go to unicorn 1"]])
    assert table["game, turns 0-9", "accepted"] == table["game, turns 0-9", "name"] == wilson_rate(1, 2)
    assert table["game, turns 0-9", "number"] == wilson_rate(1, 1), "the unicorn has no number that could be right"


def _likeliest(model, tokens: list[int]) -> int:
    with torch.inference_mode():
        return int(model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax())
