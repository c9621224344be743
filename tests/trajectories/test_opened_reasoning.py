"""Models whose own tokens mark reasoning, and chat templates that open it in the prompt."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AddedToken, PreTrainedTokenizerFast

from tests.trajectories import samples
from tests.trajectories.test_builder import Seen
from trajectories.answers import FORMATS, FormatName, Violation, read_answer, write_answer
from trajectories.builder import DemonstratedStep, add_demonstration, make_builder
from trajectories.chat import ChatTokenizer
from trajectories.prompt_settings import PromptSettings
from trajectories.types import Sequence

DROPS = samples.DROPS_REASONING.replace("message['content'].split", "message['content'].replace('<think>', '').split")
"""As Qwen3's, it knows both marks of reasoning."""
OPENS = DROPS.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
"""As DeepSeek-R1's."""


def reasoner(template: str) -> PreTrainedTokenizerFast:
    """With tokens for reasoning, as Qwen3's, SmolLM3's and R1's have."""
    tokenizer = samples.byte_tokenizer(template)
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in ("<think>", "</think>")])
    return tokenizer


TOKENIZERS = {name: reasoner(text) for name, text in (("opens", OPENS), ("plain", DROPS))}
MODES, FORMAT_NAMES = st.sampled_from(["transcript", "windowed"]), st.sampled_from(sorted(FORMATS))


@pytest.mark.parametrize("mode", ["transcript", "windowed"])
@pytest.mark.parametrize(
    ("format", "response", "finished", "expected"),
    [
        ("tagged", "Perhaps <action>look</action>, or in", False, Violation.CUT_OFF),
        ("tagged", "Perhaps <action>look</action>.", True, Violation.UNCLOSED_TAG),
        ("tagged", "Perhaps <action>look</action>.</think><action>go</action>", True, "go"),
        ("tagged", "Perhaps <action>look</action>.</think><action>go</action> n", False, "go"),
        ("react", "Action: look\nor", False, Violation.CUT_OFF),
        ("action", "look", True, Violation.UNCLOSED_TAG),
        ("action", "Hm.</think>\n\nlook", True, "look"),
    ],
)
def test_nothing_said_in_opened_reasoning_is_an_action(
    mode: str, format: str, response: str, finished: bool, expected: str
) -> None:
    chat = ChatTokenizer(TOKENIZERS["opens"])
    builder = make_builder(chat, PromptSettings.model_validate({"mode": mode, "format": format}))
    builder.begin(Seen("A room."))
    assert builder.opened
    for _ in range(2):
        ids = [*chat.encode(response), *([chat.turn_end_id] if finished else [])]
        answer = builder.add_response(ids, np.zeros(len(ids)), 0, finished)
        assert (answer.violation or answer.action) == expected
        builder.add_observation(Seen("A desk."), 0.0, 0, True)


@given(FORMAT_NAMES, st.text("abc 1[]", min_size=1).map(str.strip).filter(bool), st.text("abc .\n"))
def test_what_is_written_into_opened_reasoning_is_read_back(format: FormatName, action: str, thought: str) -> None:
    written = write_answer(format, action, thought, opened=True)
    assert read_answer(format, written, opened=True).action == action
    assert "<think>" not in written and written.count("</think>") == 1


def demonstrated(
    tokenizer: PreTrainedTokenizerFast, mode: str, format: FormatName, action: str, thought: str
) -> tuple[ChatTokenizer, tuple[Sequence, ...]]:
    chat = ChatTokenizer(tokenizer)
    builder = make_builder(chat, PromptSettings.model_validate({"mode": mode, "format": format}))
    steps = [DemonstratedStep(action, Seen("A desk."), 0.0, turn, True, thought) for turn in range(2)]
    add_demonstration(builder, chat, Seen("A room."), steps, format)
    return chat, builder.sequences("e", "e", "g", 1.0)


def answers(sequences: tuple[Sequence, ...]) -> list[list[int]]:
    return [sequence.token_ids[turn.start : turn.end].tolist() for sequence in sequences for turn in sequence.turns]


@pytest.mark.parametrize("mode", ["transcript", "windowed"])
@pytest.mark.parametrize(
    ("template", "thought", "said"),
    [
        ("plain", "I look.", "<think>I look.</think>\n<action>look</action>"),
        ("plain", "", "<action>look</action>"),
        ("opens", "I look.", "I look.</think>\n<action>look</action>"),
        ("opens", "", "</think>\n<action>look</action>"),
    ],
)
def test_a_demonstration_marks_its_thought_as_the_model_does(mode: str, template: str, thought: str, said: str) -> None:
    chat, sequences = demonstrated(TOKENIZERS[template], mode, "tagged", "look", thought)
    sampled = [*chat.encode(said), chat.turn_end_id]
    assert answers(sequences) == [sampled] * 2
    assert ("</think>" in said) == (TOKENIZERS[template].convert_tokens_to_ids("</think>") in sampled)


MARKERS = ["<think>", "</think>", "<action>", "</action>", "<|im_end|>", "<|im_start|>", "<", "|im_end|>", "Action:"]
hostile = st.lists(st.sampled_from(MARKERS) | st.text("ab \n", max_size=4), max_size=5).map("".join)


@given(st.sampled_from(sorted(TOKENIZERS)), MODES, FORMAT_NAMES, hostile, hostile)
@settings(max_examples=150, deadline=None)
def test_neither_a_demonstrated_action_nor_its_thought_becomes_a_control_token(
    template: str, mode: str, format: FormatName, action: str, thought: str
) -> None:
    tokenizer = TOKENIZERS[template]
    chat, sequences = demonstrated(tokenizer, mode, format, action, thought)
    opening, closing = (tokenizer.convert_tokens_to_ids(text) for text in ("<think>", "</think>"))
    reasons = [[closing]] if template == "opens" else [[], [opening, closing]]
    for ids in answers(sequences):
        control = [token for token in ids if token in tokenizer.added_tokens_decoder]
        assert control in [[*marks, chat.turn_end_id] for marks in reasons] and ids[-1] == chat.turn_end_id
