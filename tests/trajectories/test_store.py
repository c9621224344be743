from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings

from tests.trajectories import samples
from trajectories import schema
from trajectories.errors import UserError
from trajectories.store import TrajectoryStore, read_cache, read_group, write_group, write_parquet
from trajectories.types import Assignment, Route, Trajectory


@given(samples.batches())
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_part_reads_back_as_it_was_written(tmp_path: Path, batch: tuple[Trajectory, ...]) -> None:
    store = TrajectoryStore(tmp_path)
    store.write(0, *schema.to_tables(batch))
    episodes, sequences, assignments = TrajectoryStore(tmp_path).read(0)
    samples.assert_equal(schema.from_tables(episodes, sequences), batch)
    assert assignments is None


def test_assignments_are_kept_beside_their_sequences(tmp_path: Path) -> None:
    assignment = Assignment("s", Route.SFT, (0.5,), 0.0, 1.0, {"success": 0.5})
    store, table = TrajectoryStore(tmp_path), schema.assignments_to_table([assignment])
    store.write(0, *schema.to_tables([]), table)
    assert store.read(0)[2] == table


def test_parts_may_be_written_in_any_order(tmp_path: Path) -> None:
    store = TrajectoryStore(tmp_path)
    for number in (1, 0, 2):
        store.write(number, *schema.to_tables([]))
    assert len(TrajectoryStore(tmp_path)) == 3
    with pytest.raises(FileNotFoundError, match="has 3 parts, no part 3"):
        store.read(3)


def test_truncate_forgets_what_a_resumed_run_writes_again(tmp_path: Path) -> None:
    store = TrajectoryStore(tmp_path)
    for number in (0, 1, 3):
        store.write(number, *schema.to_tables([]))
    store.truncate(2)
    assert len(store) == 2
    store.write(2, *schema.to_tables([]))
    assert len(store) == 3


def test_a_part_that_is_written_again_is_replaced(tmp_path: Path) -> None:
    store, table = TrajectoryStore(tmp_path), schema.assignments_to_table([])
    store.write(0, *schema.to_tables([]), table)
    store.write(0, *schema.to_tables([]))
    assert store.read(0)[2] is None
    assert [path.name for path in tmp_path.iterdir()] == ["part-000000"]


@given(samples.batches())
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_group_reads_back_as_it_was_written(tmp_path: Path, batch: tuple[Trajectory, ...]) -> None:
    write_group(tmp_path / "ready", 4, *schema.to_tables(batch))
    samples.assert_equal(schema.from_tables(*read_group(tmp_path / "ready", 4)), batch)


def test_a_writer_killed_in_the_middle_leaves_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = TrajectoryStore(tmp_path)
    write = pq.write_table

    def die_at_sequences(table: object, path: Path, **options: Any) -> None:
        if path.name == "sequences.parquet":
            raise KeyboardInterrupt
        write(table, path, **options)

    monkeypatch.setattr(pq, "write_table", die_at_sequences)
    with pytest.raises(KeyboardInterrupt):
        store.write(0, *schema.to_tables([]))
    monkeypatch.undo()
    assert len(store) == 0
    store.write(0, *schema.to_tables([]))
    assert len(store) == 1


def test_a_damaged_table_is_made_again_and_a_missing_one_needs_no_word(tmp_path):
    path, said = tmp_path / "table.parquet", []
    assert read_cache(path, said.append) is None and not said
    table = pa.table({"x": list(range(100))})
    write_parquet(path, table)
    assert read_cache(path, said.append) == table and not said
    whole = path.read_bytes()
    for length in (0, 3, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert read_cache(path, said.append) is None
    assert len(said) == 4 and all(line.endswith("and is made again") and str(path) in line for line in said)


def test_a_table_that_the_disk_does_not_give_is_not_made_again(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    (tmp_path / "table.parquet").touch()
    monkeypatch.setattr(pq, "read_table", refuse)
    with pytest.raises(UserError, match=r"cannot read .*table.parquet .*: mend the disk"):
        read_cache(tmp_path / "table.parquet", print)
