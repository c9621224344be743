"""What a tokenizer must bring, and where it says that a generation ends."""

from __future__ import annotations

import json

import pytest

from tests.trajectories import samples
from trajectories.chat import ChatTokenizer


def test_a_tokenizer_without_chat_template_or_turn_end_is_refused() -> None:
    with pytest.raises(ValueError, match="no chat template"):
        ChatTokenizer(samples.byte_tokenizer(None))
    plain = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    with pytest.raises(ValueError, match="no special token"):
        ChatTokenizer(samples.byte_tokenizer(plain))


@pytest.mark.parametrize(("declared", "stops"), [([2, 7, 5], (2, 7, 5)), (7, (2, 7)), (None, (2,))])
def test_generation_stops_at_every_declared_end(
    tmp_path, declared: list[int] | int | None, stops: tuple[int, ...]
) -> None:
    samples.byte_tokenizer(samples.CHATML).save_pretrained(tmp_path)
    if declared is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": declared}))
    tokenizer = ChatTokenizer.from_pretrained(str(tmp_path))
    assert tokenizer.turn_end_id == 2 and tokenizer.stop_token_ids == stops
