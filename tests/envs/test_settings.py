"""Options of environments: typed, handed to the real environment, and in a panel's hash where they change the task."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from envs import heldout_panel, load_panel, make_environment, training_panel
from envs.alfworld.settings import AlfworldSettings
from envs.webshop.settings import WebShopSettings
from tests.envs.webshop.rows import annotation, product_row, write_data
from trajectories.errors import UserError

RICH = WebShopSettings(observation_mode="text_rich")
HUMAN = WebShopSettings(human_goals=True)


@pytest.fixture
def shop_data(tmp_path, monkeypatch):
    """One product, two synthetic goals, one human goal."""
    monkeypatch.setenv("CONCERTO_CACHE", str(tmp_path / "cache"))
    human = {"B000000001": [annotation(instruction="i want a warm hat", instruction_options=["red"])]}
    return write_data(tmp_path / "data", [product_row()], {"B000000001": annotation()}, human)


def test_rich_text_shows_the_same_shop_otherwise():
    plain, rich = make_environment("webshop", "generated"), make_environment("webshop", "generated", RICH)
    first, second = plain.reset("0"), rich.reset("0")
    assert first.text != second.text and "[button]" in second.text
    assert first.admissible_actions == second.admissible_actions


def test_human_goals_are_the_tasks(shop_data):
    assert load_panel("webshop/test", shop_data).task_ids == ("0", "1")
    assert load_panel("webshop/test", shop_data, HUMAN).task_ids == ("0",)
    text = make_environment("webshop", shop_data, HUMAN).reset("0").text
    assert "i want a warm hat" in text


def test_data_without_human_goals_are_named():
    for use in (make_environment, lambda name, *opening: load_panel(f"{name}/test", *opening)):
        with pytest.raises(UserError, match="has no human goals; choose other goals or other data"):
            use("webshop", "generated", HUMAN)


def test_options_that_change_the_task_are_in_the_hash():
    for panel_of in (training_panel, heldout_panel):
        plain, same, rich = (panel_of("webshop", "generated", at) for at in (None, WebShopSettings(), RICH))
        assert plain == same and plain.options == {}
        assert rich.task_ids == plain.task_ids and rich.hash != plain.hash
        assert rich.options == {"observation_mode": "text_rich"}


def test_both_engines_of_alfworld_play_the_same_tasks():
    stock = load_panel("alfworld/generated/heldout", None, AlfworldSettings(engine="textworld"))
    assert stock == load_panel("alfworld/generated/heldout")


def test_the_native_engine_plays():
    environment = make_environment("alfworld", None, AlfworldSettings(engine="native"))
    task = load_panel("alfworld/generated/heldout").task_ids[0]
    assert "Welcome to TextWorld" in environment.reset(task).text


@pytest.mark.parametrize(
    ("settings", "wrong"), [(AlfworldSettings, {"engine": "fast"}), (WebShopSettings, {"tagger": "spacy"})]
)
def test_an_unknown_option_or_value_is_refused(settings, wrong):
    with pytest.raises(ValidationError):
        settings(**wrong)
