from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings

from tests.trajectories import samples
from trajectories import schema
from trajectories.store import TrajectoryStore
from trajectories.types import Assignment, Route, Trajectory


@given(samples.batches())
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_part_reads_back_as_it_was_appended(tmp_path: Path, batch: tuple[Trajectory, ...]) -> None:
    store = TrajectoryStore(tmp_path)
    number = store.append(*schema.to_tables(batch))
    episodes, sequences, assignments = TrajectoryStore(tmp_path).read(number)
    samples.assert_equal(schema.from_tables(episodes, sequences), batch)
    assert assignments is None


def test_assignments_are_kept_beside_their_sequences(tmp_path: Path) -> None:
    assignment = Assignment("s", Route.SFT, 0.5, 0.0, 1.0, {"success": 0.5})
    store, table = TrajectoryStore(tmp_path), schema.assignments_to_table([assignment])
    store.append(*schema.to_tables([]), table)
    assert store.read(0)[2] == table


def test_parts_are_numbered_in_the_order_of_appending(tmp_path: Path) -> None:
    store = TrajectoryStore(tmp_path)
    assert [store.append(*schema.to_tables([])) for _ in range(3)] == [0, 1, 2]
    assert len(TrajectoryStore(tmp_path)) == 3
    with pytest.raises(IndexError, match="has 3 parts, no part 3"):
        store.read(3)


def test_truncate_forgets_what_a_resumed_run_writes_again(tmp_path: Path) -> None:
    store = TrajectoryStore(tmp_path)
    for _ in range(3):
        store.append(*schema.to_tables([]))
    store.truncate(1)
    assert len(store) == 1
    assert store.append(*schema.to_tables([])) == 1


def test_a_writer_killed_in_the_middle_leaves_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = TrajectoryStore(tmp_path)
    write = pq.write_table

    def die_at_sequences(table: object, path: Path, **options: Any) -> None:
        if path.name == "sequences.parquet":
            raise KeyboardInterrupt
        write(table, path, **options)

    monkeypatch.setattr(pq, "write_table", die_at_sequences)
    with pytest.raises(KeyboardInterrupt):
        store.append(*schema.to_tables([]))
    monkeypatch.undo()
    assert len(store) == 0
    assert store.append(*schema.to_tables([])) == 0
