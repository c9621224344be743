"""The recorder: it writes trajectories and ready groups to disk, and reads ready groups back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
from ray.actor import ActorHandle

from actors import runtime
from actors.group_references import GroupReferences
from trajectories.schema import concat_tables
from trajectories.store import TrajectoryStore, read_group, write_group


class RecorderActor:
    """Runs as a Ray actor of its own, so that token data goes from rollouts to disk past the coordinator.

    Every call may be repeated: a part or a group that is there already is written again.
    """

    def __init__(self, directory: Path) -> None:
        """
        Args:
            directory: of the trajectory store.
        """
        self._store = TrajectoryStore(directory)

    def truncate(self, parts: int) -> None:
        """Forget the parts from number `parts` on."""
        self._store.truncate(parts)

    def write(self, part: int, groups: Sequence[GroupReferences], assignments: pa.Table | None) -> None:
        """Write the groups of one learner step, and what it made of them, as one part of the store."""
        tables = [runtime.get(list(group)) for group in groups]
        episodes, sequences = (concat_tables(column) for column in zip(*tables, strict=True))
        self._store.write(part, episodes, sequences, assignments)

    def keep(self, folder: Path, ready: Mapping[int, GroupReferences]) -> None:
        """Write finished groups that are not trained yet to `folder`, by position."""
        for position, group in ready.items():
            write_group(folder, position, *runtime.get(list(group)))

    @ray.method(num_returns=2)
    def read(self, folder: Path, position: int) -> tuple[pa.Table, pa.Table]:
        """A group that `keep` wrote: episodes, sequences. Two references for the caller, who leaves the second be."""
        return read_group(folder, position)


def start_recorder(directory: Path, options: Mapping[str, Any]) -> ActorHandle:
    """A recorder that Ray restarts when it dies, and whose call it then repeats.

    Args:
        options: Ray's actor options: name, scheduling_strategy, …
    """
    lives = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": 2}
    return runtime.start(RecorderActor, {**lives, **options}, directory.resolve())  # actors have their own directories
