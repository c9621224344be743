from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learners.policy.micro_batch import collate, split_over_workers
from tests.learners.samples import make_sequences

lengths = st.lists(st.integers(1, 50), max_size=30)


@given(lengths, st.integers(1, 5))
def test_workers_share_every_sequence_once_and_evenly(lengths: list[int], workers: int) -> None:
    shares = split_over_workers(lengths, workers)
    assert len(shares) == workers
    assert sorted(index for share in shares for index in share) == list(range(len(lengths)))
    loads = [sum(lengths[index] for index in share) for share in shares]
    assert max(loads) - min(loads) <= max(lengths, default=0)


def test_a_worked_example() -> None:
    assert split_over_workers([5, 2, 5, 2, 9], 2) == [[4, 1], [0, 2, 3]]


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
    for row, sequence in enumerate(sequences):
        np.testing.assert_array_equal(batch.input_ids[row, : len(sequence.token_ids)], sequence.token_ids)
