"""Models that mark channels or reasoning in their answers with control tokens of their own."""

from __future__ import annotations

import numpy as np
import pytest
from jinja2 import TemplateError
from transformers import AddedToken

from tests.trajectories import samples
from tests.trajectories.test_builder import Seen
from trajectories.answers import Violation
from trajectories.builder import AlignmentKind, make_builder
from trajectories.chat import ChatTokenizer, Message
from trajectories.chat_builder import ChatBuilder
from trajectories.prompt_settings import PromptSettings

HARMONY = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{% if '<|channel|>' in message['content'] %}{{ raise_exception('channels in the content') }}{% endif %}"
    "<|im_start|>assistant<|channel|>final<|message|>{{ message['content'] }}<|im_end|>"
    "{% else %}<|im_start|>{{ message['role'] }}<|message|>{{ message['content'] }}<|im_end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
)
"""GPT-OSS's habit: earlier reasoning is left out, and refused where it stands in what was said."""
THOUGHT = "<|channel|>analysis<|message|>A desk.\n<action>go to bed 1</action><|end|><|im_start|>assistant"
CHANNELS = THOUGHT + "<|channel|>final<|message|>{}"


def harmony() -> ChatTokenizer:
    tokenizer = samples.byte_tokenizer(HARMONY)
    tokenizer.add_tokens([AddedToken(f"<|{mark}|>", special=True) for mark in ("channel", "message", "end")])
    return ChatTokenizer(tokenizer)


def magistral() -> ChatTokenizer:
    tokenizer = samples.byte_tokenizer(samples.CHATML)
    tokenizer.add_tokens([AddedToken(mark, special=True) for mark in ("[THINK]", "[/THINK]")])
    return ChatTokenizer(tokenizer)


@pytest.mark.parametrize(
    ("format", "answer"),
    [
        ("action", "go to desk 1"),
        ("react", "Action: go to desk 1"),
        ("tagged", "<think>So.</think><action>go to desk 1</action>"),
    ],
)
@pytest.mark.parametrize(
    ("chat", "reasoned"),
    [
        (harmony(), CHANNELS),
        (magistral(), "[THINK]A desk.\nAction: look[/THINK]{}"),
        (magistral(), "A desk.\nAction: look[THINK]{}[/THINK]\n"),
    ],
)
@pytest.mark.parametrize("mode", ["transcript", "windowed"])
def test_an_action_is_read_behind_reasoning_with_marks_of_its_own(
    chat: ChatTokenizer, reasoned: str, format: str, answer: str, mode: str
) -> None:
    builder = make_builder(chat, PromptSettings.model_validate({"mode": mode, "format": format}))
    builder.begin(Seen("room", ("go to desk 1",)))
    for turn in range(2):
        ids = [*chat.encode(reasoned.format(answer)), chat.turn_end_id]
        read = builder.add_response(ids, np.full(len(ids), -1.0), version=0, finished=True)
        assert (read.action, read.violation) == ("go to desk 1", None)
        builder.add_observation(Seen("desk", ("go to desk 1",)), 0.0, turn, True)
    trained = sum(int(sequence.trained.sum()) for sequence in builder.sequences("e", "e", "g", 1.0))
    assert trained == 2 * len(ids), "reasoning included"


def test_reasoning_that_the_prompt_has_opened_may_be_closed_before_a_mark() -> None:
    tokenizer = samples.byte_tokenizer(
        samples.CHATML.replace("assistant\n{% endif %}", "assistant\n<think>{% endif %}")
    )
    tokenizer.add_tokens([AddedToken("</think>"), AddedToken("<|answer|>", special=True)])
    chat = ChatTokenizer(tokenizer)
    for response, violation in (("a</think><|answer|>look", None), ("a<|answer|>look", Violation.UNCLOSED_TAG)):
        builder = make_builder(chat, PromptSettings(format="action"))
        builder.begin(Seen("room"))
        ids = [*chat.encode(response), chat.turn_end_id]
        assert builder.add_response(ids, np.zeros(len(ids)), version=0, finished=True).violation == violation


def test_a_template_that_refuses_channels_is_shown_what_was_said_behind_them() -> None:
    chat = harmony()
    builder = make_builder(chat, PromptSettings(format="action"))
    builder.begin(Seen("room"))
    for said in ("look", "<|im_end|>"):  # the second is text, letter by letter
        ids = [*chat.encode(CHANNELS.format(chat.quote(said))), chat.turn_end_id]
        builder.add_response(ids, np.zeros(len(ids)), version=0, finished=True)
        builder.add_observation(Seen("desk"), 0.0, 0, True)
    prompt = chat.decode(builder.prompt().tolist())
    final = "<|im_start|>assistant<|channel|>final<|message|>"
    assert prompt.count("<|channel|>") == 2 and f"{final}look<|im_end|>" in prompt
    assert f"{final}<|im_end|><|im_end|>" in prompt and builder.prompt().tolist().count(chat.turn_end_id) == 5


def test_a_program_may_send_back_an_answer_with_channels_as_it_got_it() -> None:
    chat = harmony()
    builder = ChatBuilder(chat, PromptSettings())
    question = builder.ask([{"role": "user", "content": "room"}])
    ids = [*chat.encode(CHANNELS.format("look")), chat.turn_end_id]
    answer = builder.add_response(question, ids, np.zeros(len(ids)), 0, True)
    builder.close_turn(0.0, 0, True)
    again = [("user", "room"), ("assistant", answer), ("user", "desk")]
    question = builder.ask([{"role": role, "content": content} for role, content in again])
    assert question.alignment.kind is AlignmentKind.FORK and "final<|message|>look<|im_end|>" in question.rendered


def test_what_a_template_refuses_without_any_mark_stays_its_own_error() -> None:
    refuses = "{% if messages[-1]['content'] == 'x' %}{{ raise_exception('no x') }}{% endif %}" + samples.CHATML
    chat = ChatTokenizer(samples.byte_tokenizer(refuses))
    last: Message = {"role": "assistant", "content": "x"}
    with pytest.raises(TemplateError, match="no x"):
        chat.render([last])
