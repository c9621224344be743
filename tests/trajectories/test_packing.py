from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trajectories.packing import plan_batches, split_over_workers

some_lengths = st.lists(st.integers(1, 50), max_size=30)


@given(some_lengths, st.integers(1, 120))
def test_batches_cover_every_sequence_once_within_the_budget(lengths: list[int], budget: int) -> None:
    plan = plan_batches(lengths, budget)
    assert sorted(index for rows in plan for index in rows) == list(range(len(lengths)))
    for rows in plan:
        assert len(rows) == 1 or len(rows) * max(lengths[index] for index in rows) <= budget


def test_similar_lengths_share_a_batch() -> None:
    assert plan_batches([5, 2, 5, 2, 9], 10) == [[4], [0, 2], [1, 3]]


@given(some_lengths, st.integers(1, 5))
def test_workers_share_every_sequence_once_and_evenly(lengths: list[int], workers: int) -> None:
    shares = split_over_workers(lengths, workers)
    assert len(shares) == workers
    assert sorted(index for share in shares for index in share) == list(range(len(lengths)))
    loads = [sum(lengths[index] for index in share) for share in shares]
    assert max(loads) - min(loads) <= max(lengths, default=0)


def test_the_longest_sequence_goes_to_the_worker_with_the_fewest_tokens() -> None:
    assert split_over_workers([5, 2, 5, 2, 9], 2) == [[4, 1], [0, 2, 3]]
