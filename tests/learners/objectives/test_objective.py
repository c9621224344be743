"""From advantages of turns to those of tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest

from learners.objectives.objective import token_advantages
from tests.learners.samples import make_sequences
from trajectories.types import Sequence, Turn


def sequence() -> Sequence:
    """Seven tokens: an observation, a turn of two, an observation, a turn of two."""
    row = make_sequences(1)[0]
    trained = [False, True, True, False, False, True, True]
    turns = (Turn(1, 3, 0.0, 1, True), Turn(5, 7, 0.0, 2, True))
    columns = {name: getattr(row, name)[:7].copy() for name in ("token_ids", "trained", "logprobs")}
    columns["trained"][:] = trained
    return replace(row, turns=turns, **columns)


def test_every_trained_token_has_the_advantage_of_its_turn() -> None:
    assert token_advantages(sequence(), (0.5, -2.0)).tolist() == [0.5, 0.5, -2.0, -2.0]


def test_what_is_compared_with_nothing_has_advantage_zero() -> None:
    assert token_advantages(sequence(), ()).tolist() == [0.0] * 4


def test_an_advantage_too_few_is_an_error() -> None:
    with pytest.raises(ValueError, match="shorter"):
        token_advantages(sequence(), (0.5,))
