from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from router import probe, tables
from router.arbitration import IMITATE
from tests.router import samples


def test_a_trajectory_of_several_turns_has_one_row() -> None:
    owners = ("a", "b", "a", "b", "a", "c", "c")
    sequences = [replace(s, episode_id=owner) for s, owner in zip(samples.ragged(), owners, strict=True)]
    result = probe.batched(samples.policy(), sequences)
    table = tables.measured(result, sequences)
    assert table["trajectory"].to_pylist() == ["a", "b", "c"]
    assert table["tokens"].to_pylist() == [9 + 3 + 5, 40 + 23, 64 + 17]
    trained = [int(sequence.trained.sum()) for sequence in sequences]
    assert table["trained_tokens"].to_pylist() == [sum(trained[at] for at in of) for of in ((0, 2, 4), (1, 3), (5, 6))]
    found = tables.candidates(table, ["mock"] * 3)
    assert found.norms is not None and found.losses is not None
    torch.testing.assert_close(found.norms, result.norms.double())
    weights = [int(sequences[row].trained[1:].sum()) for row in (1, 3)]
    assert float(found.losses[1]) == pytest.approx(np.average(result.losses[[1, 3]], weights=weights))
    assert found.entries == (64 * 32, 32 * 32, 32 * 32, 64 * 32, *[64 * 32] * 3) * samples.LAYERS


def test_routes_without_a_comparison_have_no_score() -> None:
    table = tables.routes(["a"], [IMITATE])
    assert table.schema == tables.ROUTES
    assert table.to_pylist()[0]["score"] is None
