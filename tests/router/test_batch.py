from __future__ import annotations

import numpy as np
import torch

from router.batch import collate
from tests.router.samples import ragged


def test_collate_pairs_every_trained_token_with_the_position_before_it() -> None:
    sequences = ragged()
    batch = collate(sequences, torch.device("cpu"))
    assert batch.input_ids.shape == (len(sequences), max(batch.lengths))
    start = 0
    for row, sequence in enumerate(sequences):
        ids, count = sequence.token_ids, batch.trained[row]
        assert np.array_equal(batch.input_ids[row, : len(ids)], ids)
        assert not batch.input_ids[row, len(ids) :].any()
        where = slice(start, start + count)
        assert np.array_equal(batch.targets[where], ids[sequence.trained])
        at = batch.positions[where] - row * max(batch.lengths)
        assert np.array_equal(at + 1, np.flatnonzero(sequence.trained))
        assert batch.rows[where].tolist() == [row] * count
        start += count
    assert start == len(batch.targets)
