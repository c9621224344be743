"""The tables of a memory in LanceDB: task types with their vectors, every version of them, practised examples, and the
pairs of episodes that tell what items are worth.

Several processes may write: every read sees what was written last, and a write that another one overtook is made again.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trajectories.errors import ConcertoError, UserError, first_line
from trajectories.files import storing

os.environ.setdefault("LANCE_LOG", "error")  # it greets every new table with a warning
import lancedb

warnings.filterwarnings("ignore", "lancedb fork support")  # Ray forks only to start another program

TYPES, EXAMPLES, PAIRS = "types", "examples", "pairs"
TIDY_EVERY = 64
"""Additions of pairs after which their table is made compact: each is a file of its own until then."""
EMBEDDER = b"concerto.embedder"
OWN_PLACE = re.compile(r", \S+\.rs:\d+:\d+")
"""Where in its source Lance found an error: it says so, and nobody is helped."""

ITEM = pa.struct(
    [
        ("id", pa.string()),
        ("text", pa.string()),
        ("examples", pa.list_(pa.string())),
        ("parents", pa.list_(pa.string())),
    ]
)
TYPE_FIELDS = [
    pa.field("id", pa.string(), nullable=False),
    pa.field("name", pa.string()),
    pa.field("description", pa.string()),
    pa.field("suggestions", pa.list_(ITEM)),
    pa.field("procedure", pa.list_(ITEM)),
    *(pa.field(count, pa.int32()) for count in ("error_free", "rounds", "correct", "wrong", "inconclusive")),
    pa.field("taught_by", pa.string()),
]
EXAMPLE_SCHEMA = pa.schema(
    [
        *(pa.field(name, pa.string()) for name in ("id", "type_id", "reference", "question", "answer", "verdict")),
        pa.field("votes", pa.list_(pa.string())),
    ]
)
PAIR_SCHEMA = pa.schema(
    [
        *(pa.field(name, pa.string()) for name in ("id", "type_id", "state")),
        pa.field("snapshot", pa.int64()),
        pa.field("item_ids", pa.list_(pa.string())),
        *(pa.field(name, pa.float64()) for name in ("with_experience", "without", "played_at")),
    ]
)

COLUMNS = {
    TYPES: frozenset(field.name for field in TYPE_FIELDS) | {"vector"},
    EXAMPLES: frozenset(EXAMPLE_SCHEMA.names),
    PAIRS: frozenset(PAIR_SCHEMA.names),
}


@dataclass(frozen=True, slots=True)
class Space:
    """Where vectors live: the embedder's name and the numbers of a vector, d."""

    embedder: str
    dimension: int


class Store:
    """The tables below a path or an object store's URI. One write makes one version of the types."""

    def __init__(self, path: str, database: lancedb.DBConnection) -> None:
        self._path = path
        self._database = database
        self._types = self._own(TYPES, database.open_table(TYPES))
        self._examples = self._own(EXAMPLES, database.open_table(EXAMPLES))
        self._pairs: lancedb.table.Table | None = None
        self._added = 0

    @classmethod
    def exists(cls, path: str) -> bool:
        if "://" not in path and not Path(path).is_dir():
            return False  # connecting would make the folder
        with _using(path):
            return TYPES in _connect(path).list_tables().tables

    @classmethod
    def open(cls, path: str) -> Store:
        """The store at `path`. Raises UserError: there is none, or it cannot be read."""
        if not cls.exists(path):
            raise UserError(f"there is no memory at {path}: check the path; `concerto learn --memory` makes one")
        with _using(path):
            return cls(path, _connect(path))

    @classmethod
    def create(cls, path: str, space: Space) -> Store:
        """A new, empty store, or the like one that another process has made meanwhile. Raises UserError: the place
        cannot be written, or the other has vectors of another embedder."""
        vector = pa.field("vector", pa.list_(pa.float32(), space.dimension))
        schema = pa.schema([*TYPE_FIELDS, vector], metadata={EMBEDDER: space.embedder.encode()})
        with _using(path):
            database = _connect(path)
            database.create_table(EXAMPLES, schema=EXAMPLE_SCHEMA, exist_ok=True)
            database.create_table(TYPES, schema=schema, exist_ok=True)
            return cls(path, database)

    @property
    def space(self) -> Space:
        schema = self._types.schema
        name = (schema.metadata or {}).get(EMBEDDER, b"").decode()
        return Space(name, schema.field("vector").type.list_size)

    @property
    def row_schema(self) -> pa.Schema:
        """Of a type with its vector."""
        return pa.schema([*TYPE_FIELDS, pa.field("vector", pa.list_(pa.float32(), self.space.dimension))])

    @property
    def version(self) -> int:
        """Of the types; every write and every restoration makes the next one."""
        return self._types.version

    def versions(self) -> tuple[int, ...]:
        """All that can be read, oldest first."""
        return tuple(sorted(entry["version"] for entry in self._types.list_versions()))

    def rows(self, version: int | None = None) -> pa.Table:
        """All types of a version, or of the latest one. Raises UserError where there is no such version."""
        with _using(self._path):
            if version is None:
                return self._types.to_arrow()
            past, known = self._database.open_table(TYPES), self.versions()
            if version not in known:
                raise UserError(f"{self._path} has no snapshot {version}: choose one from {known[0]} to {known[-1]}")
            past.checkout(version)
            return past.to_arrow()

    def row(self, type_id: str) -> pa.Table:
        """The row of a type, or none."""
        with _using(self._path):
            return self._types.search().where(f"id = {_quoted(type_id)}").to_arrow()

    def taught_by(self, question_id: str) -> pa.Table:
        """The row of the type that was changed last for a question, or none."""
        with _using(self._path):
            return self._types.search().where(f"taught_by = {_quoted(question_id)}").limit(1).to_arrow()

    def nearest(self, vector: NDArray[np.float32], count: int) -> pa.Table:
        """The `count` types nearest to a vector [d] by cosine, nearest first."""
        with _using(self._path):
            found = self._types.search(vector).limit(count).to_arrow()  # vectors of length 1: by L2 as by cosine
        return found.drop_columns(["_distance"])

    def write(self, rows: pa.Table, without: str | None = None) -> int:
        """Put rows in place of those with the same id, or beside them; returns the new version.

        Args:
            without: id of a type that is removed in the same write.
        """
        merging = self._types.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
        if without is not None:
            merging = merging.when_not_matched_by_source_delete(f"id = {_quoted(without)}")
        with _using(self._path):
            merging.execute(rows.cast(self._types.schema))
        return self.version

    def remove(self, type_id: str) -> int:
        """Remove a type; returns the new version."""
        with _using(self._path):
            self._types.delete(f"id = {_quoted(type_id)}")
        return self.version

    def restore(self, version: int) -> int:
        """Make a version the latest one again, as a new version, which is returned; those between stay readable."""
        self.rows(version)  # says it where there is none
        with _using(self._path):
            self._types.restore(version)
        return self.version

    def add_examples(self, rows: pa.Table) -> None:
        with _using(self._path):
            self._examples.add(rows)

    def examples(self) -> pa.Table:
        with _using(self._path):
            return self._examples.to_arrow()

    def examples_of(self, type_id: str) -> pa.Table:
        with _using(self._path):
            return self._examples.search().where(f"type_id = {_quoted(type_id)}").to_arrow()

    def add_pairs(self, rows: pa.Table) -> None:
        with _using(self._path):
            # A memory that no run has used yet has no such table.
            if self._pairs is None:
                made = self._database.create_table(PAIRS, schema=PAIR_SCHEMA, exist_ok=True)
                self._pairs = self._own(PAIRS, made)
            pairs = self._pairs
            pairs.add(rows)
            self._added += 1
            if self._added % TIDY_EVERY == 0:
                pairs.optimize(cleanup_older_than=timedelta(hours=1))

    def pairs_of(self, type_id: str) -> pa.Table:
        with _using(self._path):
            if PAIRS not in self._database.list_tables().tables:
                return PAIR_SCHEMA.empty_table()
            pairs = self._own(PAIRS, self._database.open_table(PAIRS))
            return pairs.search().where(f"type_id = {_quoted(type_id)}").to_arrow()

    def _own(self, name: str, table: lancedb.table.Table) -> lancedb.table.Table:
        """The table. Raises UserError where it has other columns than this version of Concerto gives it."""
        if differing := COLUMNS[name].symmetric_difference(table.schema.names):
            raise UserError(
                f"the memory {self._path} is of another version of Concerto, or of another program: its table {name} "
                f"differs in {', '.join(sorted(differing))}; name another memory"
            )
        return table


def _connect(path: str) -> lancedb.DBConnection:
    """With reads that see what other processes have written."""
    return lancedb.connect(path, read_consistency_interval=timedelta(0))


@contextmanager
def _using(path: str) -> Iterator[None]:
    """For whatever Lance does with a store: it has no error of its own for what it cannot read or write.

    Raises StorageError where the disk is full or read-only, and UserError.
    """
    try:
        with storing(Path(path)):
            yield
    except ConcertoError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        reason = OWN_PLACE.sub("", first_line(error))[:200]
        raise UserError(f"cannot use the memory {path} ({reason}): mend it, or name another memory") from error


def _quoted(text: str) -> str:
    """A text as a literal of a filter."""
    return "'" + text.replace("'", "''") + "'"
