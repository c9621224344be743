from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trajectories.packing import plan_batches


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 120))
def test_batches_cover_every_sequence_once_within_the_budget(lengths: list[int], budget: int) -> None:
    plan = plan_batches(lengths, budget)
    assert sorted(index for rows in plan for index in rows) == list(range(len(lengths)))
    for rows in plan:
        assert len(rows) == 1 or len(rows) * max(lengths[index] for index in rows) <= budget


def test_similar_lengths_share_a_batch() -> None:
    assert plan_batches([5, 2, 5, 2, 9], 10) == [[4], [0, 2], [1, 3]]
