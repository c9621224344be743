"""Rows of question files: JSON lines (`.jsonl`, LogiQA's `.txt`), MMLU's `.csv`, HELP's `.tsv`, and Parquet.

Rows are counted from 1, blank lines of JSON lines too, a header not. SocialIQA and WinoGrande keep answers in a file
`X-labels.lst` beside `X.jsonl`, one a line; they become the field `label`.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from envs.questions.formats import MMLU_COLUMNS, Row, RowError
from trajectories.errors import UserError
from trajectories.files import in_words

RawRow = Row | RowError
"""A row, or why it cannot be read."""

SPLIT_WORDS = {
    "train": "train",
    "trn": "train",
    "dev": "dev",
    "val": "dev",
    "valid": "dev",
    "validation": "dev",
    "test": "test",
    "tst": "test",
}
"""Word in the name of a file or folder → split."""


def find_files(folder: Path) -> list[tuple[str, Path]]:
    """(split, file) of the question files below `folder` whose names tell a split, sorted by path."""
    files = (path for path in sorted(folder.rglob("*")) if path.suffix in READERS and path.is_file())
    return [(split, path) for path in files if (split := split_of(path, folder)) is not None]


def split_of(path: Path, root: Path) -> str | None:
    """What the last split word in the file's name says, or else in the nearest folder's below `root`.

    `socialIQa_v1.4_trn.jsonl` → train; `auxiliary_train/science_middle.csv` → train; `questions.jsonl` → None.
    """
    for name in (path.stem, *reversed(path.parent.relative_to(root).parts)):
        words = [word for word in re.split(r"[^a-z]+", name.lower()) if word in SPLIT_WORDS]
        if words:
            return SPLIT_WORDS[words[-1]]
    return None


def read_rows(path: Path) -> Iterator[tuple[int, RawRow]]:
    """(number, row) of a file. Raises UserError if it is no file of its kind."""
    if path.suffix not in READERS:
        raise UserError(f"{path} is no question file; name one that ends in {', '.join(READERS)}, or a folder of them")
    try:
        yield from READERS[path.suffix](path)
    except (OSError, csv.Error, pa.ArrowException) as error:
        raise UserError(f"{path} cannot be read ({in_words(error)}); fetch it again") from error


def _json_lines(path: Path) -> Iterator[tuple[int, RawRow]]:
    labels = _labels(path)
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        number = 0
        for number, line in enumerate(file, start=1):
            label = next(labels, None) if labels is not None else None
            if line.strip():
                yield number, _json_row(line, label)
            elif label is not None:
                raise UserError(f"{path} row {number} is blank, but has a label beside it; fetch both files again")
    if labels is not None and next(labels, None) is not None:
        raise UserError(f"{path} has {number} rows, but more labels beside it; fetch both files again")


def _json_row(line: str, label: str | None) -> RawRow:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return RowError(f"no JSON ({error})")
    if not isinstance(row, dict):
        return RowError(f"must be an object, not {type(row).__name__}")
    return row if label is None else {"label": label, **row}


def _labels(path: Path) -> Iterator[str] | None:
    labels = path.with_name(f"{path.stem}-labels.lst")
    return iter(labels.read_text(encoding="utf-8", errors="replace").splitlines()) if labels.is_file() else None


def _mmlu_csv(path: Path) -> Iterator[tuple[int, RawRow]]:
    for number, cells in enumerate(_cells(path, ","), start=1):
        yield number, _named(cells, MMLU_COLUMNS)


def _tsv(path: Path) -> Iterator[tuple[int, RawRow]]:
    cells = _cells(path, "\t")
    header = tuple(next(cells, ()))
    for number, row in enumerate(cells, start=1):
        yield number, _named(row, header)


def _cells(path: Path, delimiter: str) -> Iterator[list[str]]:
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        yield from (cells for cells in csv.reader(file, delimiter=delimiter) if cells)


def _named(cells: list[str], columns: tuple[str, ...]) -> RawRow:
    if len(cells) != len(columns):
        return RowError(f"{len(cells)} columns, not {len(columns)}")
    return dict(zip(columns, cells, strict=True))


def _parquet(path: Path) -> Iterator[tuple[int, RawRow]]:
    number = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield number, row


READERS: dict[str, Callable[[Path], Iterator[tuple[int, RawRow]]]] = {
    ".jsonl": _json_lines,
    ".txt": _json_lines,
    ".csv": _mmlu_csv,
    ".tsv": _tsv,
    ".parquet": _parquet,
}
"""File ending → reader."""
