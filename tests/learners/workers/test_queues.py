from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from learners.learner_settings import GRPOSettings
from learners.objectives.grpo import GRPOObjective
from learners.objectives.objective import Example
from learners.workers import queues
from tests.learners.samples import make_sequences
from trajectories.types import Sequence

floats = st.floats(allow_nan=False, allow_infinity=False)


def same(ours: Sequence, theirs: Sequence) -> bool:
    arrays = ("token_ids", "trained", "logprobs")
    others = ("sequence_id", "episode_id", "group_id", "turns", "version_spans", "temperature")
    return all(np.array_equal(getattr(ours, name), getattr(theirs, name)) for name in arrays) and all(
        getattr(ours, name) == getattr(theirs, name) for name in others
    )


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(floats, st.lists(floats, max_size=3)), max_size=6), st.integers(0, 10**6))
def test_a_queue_comes_back_as_it_was(tmp_path: Path, drawn: list[tuple[float, list[float]]], steps: int) -> None:
    objective, again = GRPOObjective(GRPOSettings()), GRPOObjective(GRPOSettings())
    for sequence, (weight, advantages) in zip(make_sequences(len(drawn)), drawn, strict=True):
        objective.add(Example(sequence, weight, tuple(advantages)))
    objective.steps = steps
    queues.write(objective, tmp_path / "queue.arrow")
    queues.read(again, [tmp_path / "queue.arrow"], [tmp_path / "queue.arrow"])
    assert again.steps == steps and again.queued == objective.queued == len(drawn)
    for ours, theirs in zip(objective.waiting(), again.waiting(), strict=True):
        assert (ours.weight, ours.advantages) == (theirs.weight, theirs.advantages)
        assert same(ours.sequence, theirs.sequence)


def test_a_worker_more_than_before_has_the_steps_and_an_empty_queue(tmp_path: Path) -> None:
    objective, again = GRPOObjective(GRPOSettings()), GRPOObjective(GRPOSettings())
    objective.add(Example(make_sequences(1)[0], 1.0))
    objective.steps = 3
    queues.write(objective, tmp_path / "queue.arrow")
    queues.read(again, [tmp_path / "queue.arrow"], [])
    assert (again.steps, again.queued) == (3, 0)
