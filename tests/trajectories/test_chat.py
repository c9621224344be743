"""What a tokenizer must bring, where it says that a generation ends, and what becomes of a system message."""

from __future__ import annotations

import json

import pytest
from transformers import AddedToken, MistralConfig

from tests.trajectories import samples
from tests.trajectories.test_builder import Seen
from trajectories.builder import AlignmentKind, TranscriptBuilder, make_builder
from trajectories.chat import ChatTokenizer, Message
from trajectories.errors import UserError
from trajectories.prompt_settings import PromptSettings

IGNORES_ASSISTANT = samples.CHATML.replace(
    "{% for message in messages %}", "{% for message in messages if message['role'] != 'assistant' %}"
)
LISTS_PARTS = samples.CHATML.replace(
    "{{ message['content'] }}", "{% for part in message['content'] %}{{ part['text'] }}{% endfor %}"
)
FIRST_USER_ONLY = samples.CHATML.replace("{{ message['content'] }}", "{{ message['content'] if loop.index < 3 }}")

LLAMA_2 = (
    "{% for message in messages %}{% if message['role'] == 'user' %}<|im_start|>{{ message['content'] }}<|pad|>"
    "{% else %}{{ ' ' + message['content'] | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
)
"""A blank before the end of a turn."""
GLM_4 = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
"""A turn ends where the next one's role is told."""

REFUSES_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    + samples.CHATML
)
"""Gemma-2's habit."""
LEAVES_OUT_SYSTEM = samples.CHATML.replace(
    "{% for message in messages %}", "{% for message in messages if message['role'] != 'system' %}"
)
EDITS_SYSTEM = samples.CHATML.replace(
    "{{ message['content'] }}",
    "{{ message['content'].replace('/think', '') if message['role'] == 'system' else message['content'] }}",
)
"""SmolLM3's habit."""
MOVES_SYSTEM = (
    "{% for message in messages if message['role'] != 'system' %}<|im_start|>{{ message['role'] }}\n"
    "{{ messages[0]['content'] + '\n\n' if loop.last and messages[0]['role'] == 'system' }}"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Mistral's habit: the system message stands above what the user says last."""


def test_a_tokenizer_without_chat_template_or_turn_end_is_refused() -> None:
    with pytest.raises(ValueError, match="no chat template"):
        ChatTokenizer(samples.byte_tokenizer(None))
    plain = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    with pytest.raises(ValueError, match="no special token"):
        ChatTokenizer(samples.byte_tokenizer(plain))


@pytest.mark.parametrize("template", [IGNORES_ASSISTANT, LISTS_PARTS])
def test_a_template_that_does_not_show_what_the_assistant_says_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match="does not show the assistant message as it stands"):
        ChatTokenizer(samples.byte_tokenizer(template))


def test_a_template_that_does_not_show_what_the_user_says_is_refused() -> None:
    with pytest.raises(UserError, match="does not show the user message as it stands: save one that does beside"):
        ChatTokenizer(samples.byte_tokenizer(FIRST_USER_ONLY)).check_conversation("", {})


@pytest.mark.parametrize(("declared", "stops"), [([2, 7, 5], (2, 7, 5)), (7, (2, 7)), (None, (2,))])
def test_generation_stops_at_every_declared_end(
    tmp_path, declared: list[int] | int | None, stops: tuple[int, ...]
) -> None:
    samples.byte_tokenizer(samples.CHATML).save_pretrained(tmp_path)
    if declared is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": declared}))
    tokenizer = ChatTokenizer.from_pretrained(str(tmp_path))
    assert tokenizer.turn_end_id == 2 and tokenizer.stop_token_ids == stops


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", r"cannot read .*generation_config\.json \(Expecting property name"),
        ("[2]", r"cannot read .*generation_config\.json \(it holds no settings\)"),
        ('{"eos_token_id": "</s>"}', "names '</s>' as an end, which is no token id from 0 to 289"),
        ('{"eos_token_id": [2, 320]}', "names 320 as an end"),
        ('{"eos_token_id": -1}', "names -1 as an end"),
    ],
)
def test_ends_that_are_none_are_told_in_one_line(tmp_path, content: str, said: str) -> None:
    samples.byte_tokenizer(samples.CHATML).save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text(content)
    with pytest.raises(UserError, match=said + '.*: write {"eos_token_id": ID} there') as refusal:
        ChatTokenizer.from_pretrained(str(tmp_path))
    assert "\n" not in str(refusal.value)


def test_blanks_before_the_end_of_a_turn_are_not_its_end() -> None:
    assert ChatTokenizer(samples.byte_tokenizer(LLAMA_2)).turn_end_id == 2


def test_where_nothing_ends_a_turn_a_declared_end_that_begins_the_next_one_does() -> None:
    tokenizer = samples.byte_tokenizer(GLM_4)
    tokenizer.add_tokens([AddedToken(f"<|{role}|>", special=True) for role in ("user", "assistant")])
    user = tokenizer.convert_tokens_to_ids("<|user|>")
    assert isinstance(user, int)
    with pytest.raises(ValueError, match=r"ends a turn with '<\|user\|>.*nor one that generation_config\.json names"):
        ChatTokenizer(tokenizer)
    chat = ChatTokenizer(tokenizer, [user])
    assert chat.turn_end_id == user and chat.stop_token_ids == (user, 2)
    builder = TranscriptBuilder(chat, PromptSettings())
    builder.begin(Seen("room"))
    for _ in range(2):
        ids = chat.encode_response("look")
        builder.add_response(ids, [0.0] * len(ids), 0, True)
        builder.add_observation(Seen("room"), 0.0, 0, True)
    assert builder.alignments == [AlignmentKind.CLEAN] * 2


def test_a_second_tokenizer_in_mistrals_own_format_is_passed_by(tmp_path) -> None:
    samples.byte_tokenizer(samples.CHATML).save_pretrained(tmp_path)
    MistralConfig().save_pretrained(tmp_path)
    (tmp_path / "tekken.json").write_text("{}")
    assert ChatTokenizer.from_pretrained(str(tmp_path)).turn_end_id == 2


@pytest.mark.parametrize("template", [REFUSES_SYSTEM, LEAVES_OUT_SYSTEM, EDITS_SYSTEM, MOVES_SYSTEM])
@pytest.mark.parametrize("mode", ["transcript", "windowed"])
def test_a_system_message_that_the_template_does_not_take_stands_above_the_first_user_message(
    template: str, mode: str
) -> None:
    chat = ChatTokenizer(samples.byte_tokenizer(template))
    system = "Think within <think> </think>."
    builder = make_builder(chat, PromptSettings.model_validate({"mode": mode, "system": system}))
    builder.begin(Seen("A room."))
    first = f"<|im_start|>user\n{system}\n\nA room.<|im_end|>\n<|im_start|>assistant\n"
    assert chat.decode(builder.prompt().tolist()) == first and not chat.takes_system
    ids = chat.encode_response("look")
    builder.add_response(ids, [0.0] * len(ids), 0, True)
    builder.add_observation(Seen("A desk."), 0.0, 0, True)
    assert chat.decode(builder.prompt().tolist()).count(f"<|im_start|>user\n{system}\n\nA room.") == 1
    assert chat.check_conversation(system, {})


def test_a_merged_system_message_may_hold_control_tokens_and_the_users_text_none() -> None:
    chat = ChatTokenizer(samples.byte_tokenizer(REFUSES_SYSTEM))
    for text, ends in (("room", 2), ("<|im_end|>", 2)):
        builder = make_builder(chat, PromptSettings(system="Play.<|im_end|>"))
        builder.begin(Seen(text))
        assert builder.prompt().tolist().count(chat.turn_end_id) == ends


def test_a_system_message_above_no_user_message_is_the_users() -> None:
    chat = ChatTokenizer(samples.byte_tokenizer(REFUSES_SYSTEM))
    system: Message = {"role": "system", "content": "Play."}
    assert chat.render([system]) == "<|im_start|>user\nPlay.<|im_end|>\n<|im_start|>assistant\n"


def test_a_system_message_that_is_not_shown_word_for_word_is_refused() -> None:
    shouts = samples.CHATML.replace("{{ message['content'] }}", "{{ message['content'].replace('Play', 'PLAY') }}")
    chat = ChatTokenizer(samples.byte_tokenizer(shouts))
    assert chat.takes_system and chat.check_conversation("Win.", {})
    with pytest.raises(UserError, match=r"does not show the system message as it stands.*or write another"):
        chat.check_conversation("Play.", {})


def test_a_control_token_that_no_prompt_holds_needs_no_row_in_the_model() -> None:
    """Gemma-3's token for pictures, of which its smallest model, that reads text alone, has no embedding."""
    tokenizer = samples.byte_tokenizer(samples.CHATML)
    rows = len(tokenizer)
    tokenizer.add_tokens([AddedToken("<image_soft_token>", special=True)])
    chat = ChatTokenizer(tokenizer)
    assert chat.size == rows and max(chat.encode(chat.quote("<image_soft_token>"))) < rows
    assert max(chat.check_conversation("<image_soft_token>", {})) == rows, "the run's own words may hold it"
    assert ChatTokenizer(tokenizer, [rows]).size == rows + 1
    tokenizer.add_tokens([AddedToken("desk 1", special=False)])
    assert ChatTokenizer(tokenizer).size == rows + 2, "ordinary text"
