from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trajectories.batch import collate
from trajectories.packing import IDLE, plan_batches
from trajectories.sharing import SPREAD, WORTH, common_start, plan_passes, shared_tokens
from trajectories.types import Sequence

CPU = torch.device("cpu")


def sequence(tokens: list[int]) -> Sequence:
    nothing = np.zeros(len(tokens), np.float32)
    return replace(IDLE, token_ids=np.array(tokens, np.int32), trained=nothing.astype(bool), logprobs=nothing)


def written(words: str) -> list[Sequence]:
    return [sequence([ord(letter) for letter in word]) for word in words.split()]


words = st.lists(st.lists(st.integers(1, 2), min_size=1, max_size=12).map(sequence), min_size=1, max_size=8)
"""Of two tokens only, so that many begin alike."""


def brute(sequences: list[Sequence]) -> set[tuple[int, ...]]:
    """Every distinct token, as what a causal network sees there."""
    return {tuple(s.token_ids[: at + 1].tolist()) for s in sequences for at in range(len(s.token_ids))}


@given(words)
@settings(deadline=None)
def test_every_token_has_its_place_and_equal_places_mean_equal_pasts(sequences: list[Sequence]) -> None:
    sequences = sorted(sequences, key=lambda s: s.token_ids.tolist())
    shared = shared_tokens(sequences, CPU)
    if shared is None:
        return
    ids = collate(sequences, CPU).input_ids
    seen = ids.flatten()[shared.first][shared.place]
    pasts: dict[int, tuple[int, ...]] = {}
    for row, one in enumerate(sequences):
        length = len(one.token_ids)
        assert torch.equal(seen[row, :length], ids[row, :length]) and not shared.place[row, length:].any()
        for at, place in enumerate(shared.place[row, :length].tolist()):
            past = tuple(one.token_ids[: at + 1].tolist())
            assert pasts.setdefault(place, past) == past
            assert shared.first[place] % ids.shape[1] == at, "its position in its sequence"
    assert len(shared.first) == len(pasts) == len(brute(sequences)), "each distinct token once"
    flat = torch.cat([bundle.flatten() for bundle in shared.bundles])
    assert flat[shared.bundled].tolist() == list(range(len(pasts)))
    rows = [row.tolist() for bundle in shared.bundles for row in bundle]
    for place, one in zip(shared.place.tolist(), sequences, strict=True):
        length = len(one.token_ids)
        assert any(row[:length] == place[:length] and len(row) <= length * 8 / 7 for row in rows)
    assert len(rows) == len(sequences)


def test_the_example_of_the_docstring() -> None:
    shared = shared_tokens([sequence([5, 6, 7]), sequence([5, 6, 8, 9])], CPU)
    assert shared is not None
    assert shared.first.tolist() == [0, 1, 2, 6, 7]
    assert shared.place.tolist() == [[0, 1, 2, 0], [0, 1, 3, 4]]
    assert [bundle.tolist() for bundle in shared.bundles] == [[[0, 1, 3, 4]], [[0, 1, 2]]]
    assert shared.bundled.tolist() == [0, 1, 6, 2, 3]


def test_sequences_that_begin_alike_come_together() -> None:
    assert plan_passes(written("aabb cc aabc aab d"), 6, True) == [[3, 0, 2], [1, 4]]


def test_what_is_equal_is_computed_once() -> None:
    equal = written("abcd abcd abcd")
    assert plan_passes(equal, 6, True) == [[0, 1, 2]], "three rows of four are within two budgets"
    shared = shared_tokens(equal, CPU)
    assert shared is not None and shared.place.tolist() == [[0, 1, 2, 3]] * 3
    assert plan_passes(equal, 4, True) == [[0, 1], [2]], "attention would work on twelve tokens"


def test_less_than_an_eighth_is_not_worth_it() -> None:
    first, second = sequence([1] * 2 + [2] * 14), sequence([1] * 2 + [3] * 14)
    assert plan_passes([second, first], 99, True) == [[1, 0]]
    assert shared_tokens([first, second], CPU) is not None
    longer = sequence([1] * 2 + [3] * 15)
    assert plan_passes([longer, first], 99, True) == [[0, 1]], "the longest first, padded"
    assert shared_tokens([first, longer], CPU) is None and shared_tokens([first], CPU) is None


def test_a_model_that_cannot_share_plans_as_ever() -> None:
    equal = written("abcd abcd abcde")
    assert plan_passes(equal, 8, False) == plan_batches([4, 4, 5], 8) == [[2], [0, 1]]


@given(words, st.integers(1, 40))
def test_plans_cover_every_sequence_once_within_the_budget(sequences: list[Sequence], budget: int) -> None:
    plan = plan_passes(sequences, budget, True)
    assert sorted(index for rows in plan for index in rows) == list(range(len(sequences)))
    for rows in plan:
        chosen = [sequences[index] for index in rows]
        lengths, shared = [len(one.token_ids) for one in chosen], shared_tokens(chosen, CPU)
        if len(rows) > 1 and shared is None:
            assert len(rows) * max(lengths) <= budget
        elif shared is not None:
            assert len(shared.first) <= budget and sum(lengths) <= SPREAD * budget


def test_a_common_start_ends_where_one_of_them_does() -> None:
    left, right = sequence([1, 2, 3]), sequence([1, 2, 3, 4])
    assert common_start(left, right) == common_start(right, left) == common_start(left, left) == 3
    assert common_start(left, sequence([2])) == 0


def test_a_batch_shares_only_where_it_is_asked_to() -> None:
    sequences = written("aab aac")
    assert collate(sequences, CPU).shared is None
    assert collate(sequences, CPU, share=True).shared is not None
    assert WORTH == 8
