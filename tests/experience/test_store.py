"""A memory on disk that another process, another version or another program has made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from experience.memory import Memory
from experience.records import PlayedPair, TaskType
from experience.store import EXAMPLE_SCHEMA, EXAMPLES, PAIRS, TYPES, Space, Store
from trajectories.errors import UserError


class Lengths:
    """Texts as vectors by their length."""

    name, dimension = "lengths", 2

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        angles = np.array([len(text) for text in texts], np.float32)
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def test_a_memory_that_another_process_makes_at_the_same_time_is_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "memory")
    first = Memory.open(path, Lengths())
    monkeypatch.setattr(Store, "exists", lambda path: False)  # as the second process saw it, a moment ago
    second = Memory.open(path, Lengths())
    first.write(TaskType.new("sum", "adding numbers"))
    assert list(second.types()) == list(first.types()) != []


def test_a_memory_that_another_process_makes_with_another_embedder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Store.create(str(tmp_path), Space("words", 2))
    monkeypatch.setattr(Store, "exists", lambda path: False)
    with pytest.raises(UserError, match="cannot use the memory"):
        Memory.open(str(tmp_path), Lengths())


@pytest.mark.parametrize(("table", "lost"), [(TYPES, "taught_by"), (EXAMPLES, "votes"), (PAIRS, "played_at")])
def test_a_memory_of_another_version_is_one_line(tmp_path: Path, table: str, lost: str) -> None:
    path = str(tmp_path / "memory")
    memory, known = Memory.open(path, Lengths()), TaskType.new("sum", "adding numbers")
    memory.write(known)
    memory.add_pair(PlayedPair("run/1", known.id, "state", 1, ("item",), 1.0, 0.0, 0.0))
    lancedb.connect(path).open_table(table).drop_columns([lost])
    with pytest.raises(UserError, match=f"of another version of Concerto.*table {table} differs in {lost}"):
        Memory.inspect(path).pairs_of(known.id)


def test_the_tables_of_another_program_are_no_memory(tmp_path: Path) -> None:
    database = lancedb.connect(tmp_path)
    database.create_table(TYPES, data=[{"x": 1}])
    database.create_table(EXAMPLES, schema=pa.schema(EXAMPLE_SCHEMA))
    with pytest.raises(UserError, match="or of another program: its table types differs in"):
        Memory.inspect(str(tmp_path))
