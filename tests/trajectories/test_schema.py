from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trajectories import samples
from trajectories import schema
from trajectories.types import Assignment, Sequence, Trajectory, Turn


@given(samples.batches())
@settings(max_examples=60, deadline=None)
def test_trajectories_survive_the_round_trip_through_arrow(batch: tuple[Trajectory, ...]) -> None:
    samples.assert_equal(schema.from_tables(*schema.to_tables(batch)), batch)


@given(samples.assignments())
@settings(max_examples=60, deadline=None)
def test_assignments_survive_the_round_trip_through_arrow(batch: tuple[Assignment, ...]) -> None:
    assert schema.assignments_from_table(schema.assignments_to_table(batch)) == batch


@given(samples.batches(min_size=1))
@settings(max_examples=30, deadline=None)
def test_sliced_and_concatenated_tables_read_the_same(batch: tuple[Trajectory, ...]) -> None:
    episodes, sequences = schema.to_tables(batch)
    half = len(sequences) // 2
    parts = pa.concat_tables([sequences.slice(0, half), sequences.slice(half)])
    samples.assert_equal(schema.from_tables(episodes, parts), batch)


@given(samples.trajectories(("success", "progress"), "e"))
@settings(max_examples=5, deadline=None)
def test_tables_have_the_published_schemas(trajectory: Trajectory) -> None:
    episodes, sequences = schema.to_tables([trajectory])
    assert sequences.schema == schema.SEQUENCES
    assert episodes.schema == schema.episodes_schema(("success", "progress"))
    assert episodes.schema.field("rewards").type == pa.list_(pa.float64(), 2)
    assert schema.reward_names(episodes) == ("success", "progress")


@given(samples.sequences())
@settings(max_examples=5, deadline=None)
def test_token_ids_are_views_that_cannot_be_written(written: Sequence) -> None:
    (sequence,) = schema.sequences_from_table(schema.sequences_to_table([written]))
    assert not sequence.token_ids.flags.writeable
    assert not sequence.token_ids.flags.owndata


@given(st.tuples(*(samples.trajectories((name,), name) for name in ("success", "score"))))
@settings(max_examples=5, deadline=None)
def test_episodes_with_different_reward_names_are_refused(batch: tuple[Trajectory, ...]) -> None:
    with pytest.raises(ValueError, match="write them to two tables"):
        schema.to_tables(batch)


@given(st.tuples(*(samples.trajectories(names, str(names)) for names in ((), ("success",), ("score", "success")))))
@settings(max_examples=20, deadline=None)
def test_tables_of_several_environments_concatenate_and_read_the_same(batch: tuple[Trajectory, ...]) -> None:
    episodes, sequences = zip(*(schema.to_tables([trajectory]) for trajectory in batch), strict=True)
    together = schema.concat_tables(episodes)
    assert schema.reward_names(together) == ("success", "score")
    samples.assert_equal(schema.from_tables(together, schema.concat_tables(sequences)), batch)
    again = schema.concat_tables([together.slice(1), episodes[0]])
    samples.assert_equal(schema.from_tables(again, schema.concat_tables(sequences)), (*batch[1:], batch[0]))


@given(samples.assignments(), samples.assignments())
@settings(max_examples=40, deadline=None)
def test_assignments_of_several_environments_concatenate(
    one: tuple[Assignment, ...], two: tuple[Assignment, ...]
) -> None:
    together = schema.concat_tables([schema.assignments_to_table(one), schema.assignments_to_table(two)])
    assert schema.assignments_from_table(together) == (*one, *two)


@given(samples.trajectories(("success",), "e"), samples.sequences("s", "other"))
@settings(max_examples=5, deadline=None)
def test_a_sequence_without_its_episode_is_refused(trajectory: Trajectory, stray: Sequence) -> None:
    episodes, _ = schema.to_tables([trajectory])
    with pytest.raises(ValueError, match="belongs to episode other"):
        schema.from_tables(episodes, schema.sequences_to_table([stray]))


def test_unequal_lengths_and_spans_outside_are_refused() -> None:
    arrays = {"token_ids": np.zeros(2, np.int32), "trained": np.zeros(2, np.bool_), "logprobs": np.zeros(2, np.float32)}
    rest = {"sequence_id": "s", "episode_id": "e", "group_id": "g", "version_spans": (), "temperature": 1.0}
    with pytest.raises(ValueError, match="equally long"):
        Sequence(**arrays | {"logprobs": np.zeros(3, np.float32)}, turns=(), **rest)
    with pytest.raises(ValueError, match="outside its 2 tokens"):
        Sequence(**arrays, turns=(Turn(0, 3, 0.0, 0, True),), **rest)
