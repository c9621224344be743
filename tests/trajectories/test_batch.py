from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.learners.samples import make_sequences
from trajectories.batch import collate, trained_tokens


@given(st.integers(1, 6), st.integers(0, 1000))
@settings(deadline=None)
def test_collate_pairs_every_trained_token_with_the_position_before_it(count: int, seed: int) -> None:
    sequences = make_sequences(count, seed)
    batch = collate(sequences, torch.device("cpu"))
    width = batch.input_ids.shape[1]
    expected = [
        (row * width + at - 1, sequence.token_ids[at], row, sequence.logprobs[at], np.float32(sequence.temperature))
        for row, sequence in enumerate(sequences)
        for at in np.flatnonzero(sequence.trained)
    ]
    columns = (batch.positions, batch.targets, batch.rows, batch.behaviour, batch.temperature)
    assert list(zip(*(column.tolist() for column in columns), strict=True)) == expected
    assert batch.trained == tuple(trained_tokens(sequence) for sequence in sequences)


def test_collate_keeps_every_token_and_pads_on_the_right() -> None:
    sequences = make_sequences(6)
    batch = collate(sequences, torch.device("cpu"))
    assert batch.lengths == tuple(len(sequence.token_ids) for sequence in sequences)
    assert batch.input_ids.shape == (len(sequences), max(batch.lengths))
    for row, sequence in zip(batch.input_ids, sequences, strict=True):
        np.testing.assert_array_equal(row[: len(sequence.token_ids)], sequence.token_ids)
        assert not row[len(sequence.token_ids) :].any()
