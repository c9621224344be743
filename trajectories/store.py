"""Append-only store of trajectories on Parquet: the dump of a run, an SFT corpus, a replay buffer."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from trajectories.errors import UserError, first_line
from trajectories.files import in_words, reading, storing, written_aside

EPISODES_FILE, SEQUENCES_FILE, ASSIGNMENTS_FILE = "episodes.parquet", "sequences.parquet", "assignments.parquet"


class TrajectoryStore:
    """A directory of numbered parts, each with its episodes, sequences and, once trained, assignments.

    A part is written aside and renamed, so a reader sees all of it or nothing. One writer, any number of readers.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def __len__(self) -> int:
        """Number of parts."""
        return len(self._parts())

    def write(self, number: int, episodes: pa.Table, sequences: pa.Table, assignments: pa.Table | None = None) -> None:
        """Write the part of this number, counted from 0; one that is there already is replaced."""
        if (path := self._path(number)).exists():
            self._forget(path)
        with written_aside(path) as aside:
            aside.mkdir()
            pq.write_table(episodes, aside / EPISODES_FILE, compression="zstd")
            pq.write_table(sequences, aside / SEQUENCES_FILE, compression="zstd")
            if assignments is not None:
                pq.write_table(assignments, aside / ASSIGNMENTS_FILE, compression="zstd")

    def read(self, number: int) -> tuple[pa.Table, pa.Table, pa.Table | None]:
        """(episodes, sequences, assignments or None) of one part."""
        path = self._path(number)
        if not path.is_dir():
            raise FileNotFoundError(f"{self.directory} has {len(self)} parts, no part {number}")
        assignments = path / ASSIGNMENTS_FILE
        return (
            pq.read_table(path / EPISODES_FILE),
            pq.read_table(path / SEQUENCES_FILE),
            pq.read_table(assignments) if assignments.is_file() else None,
        )

    def truncate(self, length: int) -> None:
        """Forget the parts from number `length` on: a resumed run writes them again."""
        kept = {self._path(number) for number in range(length)}
        for path in reversed(self._parts()):
            if path not in kept:
                self._forget(path)

    def _forget(self, path: Path) -> None:
        aside = path.rename(path.with_name(f".gone-{path.name}.{os.getpid()}"))  # never half a part in sight
        shutil.rmtree(aside)

    def _path(self, number: int) -> Path:
        return self.directory / f"part-{number:06d}"

    def _parts(self) -> list[Path]:
        return sorted(self.directory.glob("part-*"))


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write one table as a file, aside and renamed; the folder of `path` is made where it is missing."""
    with written_aside(path) as aside:
        pq.write_table(table, aside, compression="zstd")


def read_parquet(path: Path, schema: pa.Schema, fix: str) -> pa.Table:
    """The columns of `schema`, as its types, of a file that somebody named, with the file's metadata.

    Args:
        fix: the end of the line, where the file is not such a table.
    Raises:
        UserError: the file cannot be read, has no rows, lacks a column, or a column holds something else.
    """
    with reading(path, fix):
        table = pq.read_table(path)
    table = fitted(table, schema, path, fix)
    if not table.num_rows:
        raise UserError(f"{path} holds no rows: {fix}")
    return table


def fitted(table: pa.Table, schema: pa.Schema, path: Path, fix: str) -> pa.Table:
    """The columns of `schema`, as its types, of what was read from `path`. Raises UserError as `read_parquet`."""
    if missing := [name for name in schema.names if name not in table.column_names]:
        raise UserError(f"{path} lacks the column {missing[0]!r}: {fix}")
    columns = []
    for field in schema:
        try:
            columns.append(table[field.name].cast(field.type))
        except pa.ArrowException as error:
            raise UserError(f"the column {field.name!r} of {path} does not fit ({first_line(error)}): {fix}") from error
    return pa.table(columns, schema=schema.with_metadata(table.schema.metadata))


def read_cache(path: Path, say: Callable[[str], None]) -> pa.Table | None:
    """A table that can be made again, as `write_parquet` wrote it. None where there is none, or, said in one line,
    where the file is damaged. Raises UserError when the disk does not let it be read."""
    try:
        return pq.read_table(path) if path.exists() else None
    except (OSError, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise UserError(f"cannot read {path} ({in_words(error)}): mend the disk or its permissions.") from error
        say(f"{path} is damaged ({first_line(error)}) and is made again")
        return None


def write_group(folder: Path, position: int, episodes: pa.Table, sequences: pa.Table) -> None:
    """Write one group as it travels, without compression: it is read once, on resume."""
    folder.mkdir(parents=True, exist_ok=True)
    for table, path in zip((episodes, sequences), _group_files(folder, position), strict=True):
        with storing(path), pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)


def read_group(folder: Path, position: int) -> tuple[pa.Table, pa.Table]:
    """The (episodes, sequences) that `write_group` wrote."""
    episodes, sequences = map(_read_table, _group_files(folder, position))
    return episodes, sequences


def _group_files(folder: Path, position: int) -> tuple[Path, Path]:
    return folder / f"{position}.episodes.arrow", folder / f"{position}.sequences.arrow"


def _read_table(path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()
