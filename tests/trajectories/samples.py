"""Tokenizers, strategies and wire values for the tests of this package."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from trajectories.types import Assignment, Episode, Route, Sequence, StopReason, Trajectory, Turn, VersionSpan

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Qwen2's and SmolLM2's form."""

MARKERS = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}<|im_start|>{{ message['content'] }}<|im_end|>"
    "{% else %}{{ message['content'] }}{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>{% endif %}"
)
"""Nothing between the turns but two marker tokens."""

DROPS_REASONING = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' and not loop.last %}{{ message['content'].split('</think>')[-1] }}"
    "{% else %}{{ message['content'] }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Qwen3's habit: reasoning of earlier turns disappears."""


def byte_tokenizer(chat_template: str | None) -> PreTrainedTokenizerFast:
    """Byte-level BPE with few merges, so that most words have more than one spelling in tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|pad|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(
        ["go to desk 1", "take mug 1 from desk 1", "You arrive at desk 1. You see a mug 1."], trainer
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=chat_template,
        clean_up_tokenization_spaces=False,
    )


finite = st.floats(-1e6, 1e6)
int64 = st.integers(-(2**63), 2**63 - 1)


@st.composite
def sequences(draw: st.DrawFn, sequence_id: str = "s", episode_id: str = "e") -> Sequence:
    length = draw(st.integers(0, 12))
    spans = draw(st.lists(st.tuples(st.integers(0, length), st.integers(0, length)).map(sorted), max_size=3))
    return Sequence(
        sequence_id=sequence_id,
        episode_id=episode_id,
        group_id=draw(st.text(max_size=4)),
        token_ids=np.array(draw(st.lists(st.integers(0, 2**31 - 1), min_size=length, max_size=length)), np.int32),
        trained=np.array(draw(st.lists(st.booleans(), min_size=length, max_size=length)), np.bool_),
        logprobs=np.array(draw(st.lists(st.floats(-50, 0, width=32), min_size=length, max_size=length)), np.float32),
        turns=tuple(Turn(start, end, draw(finite), draw(int64), draw(st.booleans())) for start, end in spans),
        version_spans=tuple(VersionSpan(start, end, draw(st.integers(-1, 10**6))) for start, end in spans),
        temperature=draw(st.floats(0, 2)),
    )


@st.composite
def trajectories(draw: st.DrawFn, reward_names: tuple[str, ...], episode_id: str) -> Trajectory:
    count = draw(st.integers(0, 3))
    episode = Episode(
        episode_id=episode_id,
        group_id=draw(st.text(max_size=4)),
        member=draw(st.integers(0, 64)),
        environment="alfworld",
        split=draw(st.text(max_size=4)),
        task_id=draw(st.text(max_size=8)),
        seed=draw(int64),
        version_min=draw(st.integers(-1, 100)),
        version_max=draw(st.integers(-1, 100)),
        stop_reason=draw(st.sampled_from(StopReason)),
        success=draw(st.booleans()),
        rewards={name: draw(finite) for name in reward_names},
        turns=draw(st.integers(0, 100)),
        generation_seconds=draw(finite),
        environment_seconds=draw(finite),
        waiting_seconds=draw(finite),
        memory_snapshot=draw(st.none() | st.text(max_size=4)),
        memory_ids=tuple(draw(st.lists(st.text(max_size=4), max_size=2))),
        error=draw(st.none() | st.text(max_size=4)),
    )
    return Trajectory(episode, tuple(draw(sequences(f"{episode_id}-{i}", episode_id)) for i in range(count)))


@st.composite
def batches(draw: st.DrawFn, min_size: int = 0) -> tuple[Trajectory, ...]:
    """Some episodes of one environment, so with the same reward names."""
    names = tuple(draw(st.lists(st.sampled_from(["success", "progress", "format"]), unique=True)))
    return tuple(draw(trajectories(names, f"e{i}")) for i in range(draw(st.integers(min_size, 4))))


@st.composite
def assignments(draw: st.DrawFn) -> tuple[Assignment, ...]:
    names = tuple(draw(st.lists(st.sampled_from(["success", "progress"]), unique=True)))
    return tuple(
        Assignment(
            sequence_id=f"s{index}",
            route=draw(st.sampled_from(Route)),
            advantages=tuple(draw(st.lists(finite, max_size=3))),
            rl_weight=draw(finite),
            ce_weight=draw(finite),
            reward_advantages={name: draw(finite) for name in names},
            score=draw(st.none() | finite),
            threshold=draw(st.none() | finite),
            router_version=draw(st.integers(0, 100)),
            reward_weights_version=draw(st.integers(0, 100)),
        )
        for index in range(draw(st.integers(0, 4)))
    )


def assert_equal(left: tuple[Trajectory, ...], right: tuple[Trajectory, ...]) -> None:
    """Equality with arrays compared by value and type."""
    assert [item.episode for item in left] == [item.episode for item in right]
    pairs = zip((s for t in left for s in t.sequences), (s for t in right for s in t.sequences), strict=True)
    for a, b in pairs:
        for name in Sequence.__slots__:
            x, y = getattr(a, name), getattr(b, name)
            if isinstance(x, np.ndarray):
                assert x.dtype == y.dtype
                np.testing.assert_array_equal(x, y)
            else:
                assert x == y
