"""Prompts that list what can be done."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trajectories import samples
from trajectories.builder import PromptSettings, TranscriptBuilder, make_builder
from trajectories.chat import ChatTokenizer

CHATML = ChatTokenizer(samples.byte_tokenizer(samples.CHATML))


@dataclass(frozen=True)
class Shown:
    text: str
    admissible_actions: tuple[str, ...]
    can_search: bool = False


@given(st.integers(1, 120), st.lists(st.sampled_from(["look", "go to desk 1", "take mug 1 from desk 1"]), max_size=12))
def test_a_list_of_actions_keeps_within_its_tokens_and_counts_the_rest(most: int, actions: list[str]) -> None:
    builder = TranscriptBuilder(CHATML, PromptSettings(list_actions=True, max_listed_tokens=most))
    builder.begin(Shown("A room.", tuple(actions)))
    listed = CHATML.decode(builder.prompt().tolist()).partition("Admissible actions: ")[2].partition("<|im_end|>")[0]
    if listed == ", ".join(actions):
        assert len(CHATML.encode(listed)) <= most
        return
    kept, _, rest = listed.rpartition("and ")
    shown = len(actions) - int(rest.split()[0])
    assert kept == "".join(f"{action}, " for action in actions[:shown]) and shown < len(actions)
    assert sum(len(CHATML.encode(f"{action}, ")) for action in actions[:shown]) <= most


def test_a_search_that_is_possible_is_listed() -> None:
    builder = TranscriptBuilder(CHATML, PromptSettings(list_actions=True))
    builder.begin(Shown("A shop.", ("click[back]",), can_search=True))
    assert "Admissible actions: search[words], click[back]" in CHATML.decode(builder.prompt().tolist())


@pytest.mark.parametrize("mode", ["transcript", "windowed"])
@pytest.mark.parametrize(("shop", "action"), [(True, "search[Red Shoes]"), (False, "Search [Red Shoes]")])
def test_a_shop_that_has_shown_its_search_box_takes_searches_on_every_page(mode: str, shop: bool, action: str) -> None:
    builder = make_builder(CHATML, PromptSettings.model_validate({"mode": mode, "format": "action"}))
    builder.begin(Shown("A page.", (), can_search=shop))
    for _ in range(2):
        ids = CHATML.encode_response("Search [Red Shoes]")
        assert builder.add_response(ids, [0.0] * len(ids), 0, finished=True).action == action
        builder.add_observation(Shown("Another page.", ()), 0.0, 0, True)
