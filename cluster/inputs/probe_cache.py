"""What was probed before, by weights and trajectory, so that no run and no arm of a comparison probes it again.

One Parquet file for each way of probing each model: in the run's own folder, or in the one that `router.cache` names.
"""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from router import tables
from trajectories.files import storing
from trajectories.store import read_cache, write_parquet
from trajectories.types import Sequence as TokenSequence

PROBED = pa.schema([("key", pa.string()), *tables.MEASURED])
"""`tables.MEASURED`, and the hash of each trajectory's tokens."""


def trajectory_key(sequences: Iterable[TokenSequence]) -> str:
    """Hash of all of a trajectory that its gradient depends on."""
    found = hashlib.sha256()
    for sequence in sequences:
        found.update(f"{len(sequence.token_ids)} {sequence.temperature!r} ".encode())
        found.update(sequence.token_ids.astype("<i4").tobytes())
        found.update(sequence.trained.astype("u1").tobytes())
    return found.hexdigest()


@dataclass(slots=True)
class ProbeCache:
    """Rows of `tables.MEASURED` by trajectory, on disk.

    Attributes:
        folder: where the file lies.
        fingerprint: names the weights and the way of probing.
        say: is told, in one line, of a damaged file, which is made again.
    """

    folder: Path
    fingerprint: str
    say: Callable[[str], None]
    _rows: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._read()

    @property
    def path(self) -> Path:
        return self.folder / f"probed-{self.fingerprint[:16]}.parquet"

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def table(self, names: Sequence[str], keys: Sequence[str]) -> pa.Table:
        """`tables.MEASURED` of trajectories that are all in the cache, under these names."""
        rows = [self._rows[key] | {"trajectory": name} for name, key in zip(names, keys, strict=True)]
        return pa.Table.from_pylist(rows, tables.MEASURED)

    def add(self, keys: Sequence[str], measured: pa.Table) -> None:
        """Keep what was measured, on disk, beside what other runs have written meanwhile."""
        with storing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = self.path.with_name(f".{self.path.name}.lock").open("w")
        with lock:
            with suppress(OSError):  # a file system without locks is taken on trust
                fcntl.flock(lock, fcntl.LOCK_EX)
            self._read()
            self._rows |= dict(zip(keys, measured.to_pylist(), strict=True))
            rows = [row | {"key": key} for key, row in self._rows.items()]
            write_parquet(self.path, pa.Table.from_pylist(rows, PROBED))

    def _read(self) -> None:
        kept = read_cache(self.path, self.say)
        if kept is None:
            self.path.unlink(missing_ok=True)  # damaged, which is said once
        elif kept.schema.names == PROBED.names:
            self._rows |= {row.pop("key"): row for row in kept.to_pylist()}
