"""The files of `concerto probe` and `concerto route`, opened and checked without the libraries that take seconds."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

from trajectories.files import reading
from trajectories.schema import SEQUENCES
from trajectories.store import fitted

METRIC = b"metric"
"""Schema metadata key of a scores table: the statistic that made its column `score`."""
SEQUENCES_WANTED = "give a sequences table, as runs write them."


def open_corpus(corpus: Path) -> pq.ParquetFile:
    """A sequences table in Parquet, of which only the schema is read. Raises UserError when it is none."""
    with reading(corpus, SEQUENCES_WANTED):
        file = pq.ParquetFile(corpus)
    fitted(file.schema_arrow.empty_table(), SEQUENCES, corpus, SEQUENCES_WANTED)
    return file
