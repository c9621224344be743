"""Prompts that list what can be done."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from tests.trajectories import samples
from trajectories.builder import PromptSettings, TranscriptBuilder
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
