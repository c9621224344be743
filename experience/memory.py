"""`Memory`: task types and their experience, every state of them a snapshot.

A snapshot is the number of a version of the types. Each change is one write, so that a killed process leaves the state
before it or after it. Examples are only ever added, before the types that cite them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from experience.protocols import Embedder
from experience.records import Example, Experience, Item, PlayedPair, TaskType
from experience.store import EXAMPLE_SCHEMA, PAIR_SCHEMA, Space, Store
from trajectories.errors import UserError


class Memory:
    """The task types of a store; without an embedder it can be read and restored only."""

    def __init__(self, store: Store, embedder: Embedder | None) -> None:
        self._store = store
        self._embedder = embedder

    @classmethod
    def open(cls, path: str, embedder: Embedder) -> Memory:
        """The memory at a path or URI, made where there is none.

        Raises UserError: another embedder made it, or it cannot be opened.
        """
        space = Space(embedder.name, embedder.dimension)
        store = Store.open(path) if Store.exists(path) else Store.create(path, space)
        if (made := store.space) != space:
            raise UserError(
                f"the memory {path} holds vectors of {made.embedder} ({made.dimension} numbers), not of "
                f"{space.embedder} ({space.dimension}): open it with --embedder {made.embedder}, or "
                "name another --memory"
            )
        store.rows()  # what is torn is told now, and not by the first question
        return cls(store, embedder)

    @classmethod
    def inspect(cls, path: str) -> Memory:
        """The memory at a path or URI, to be read and restored. Raises UserError where there is none."""
        return cls(Store.open(path), None)

    @property
    def snapshot(self) -> int:
        """The present state's number."""
        return self._store.version

    @property
    def snapshots(self) -> tuple[int, ...]:
        """All that can be read or restored, oldest first."""
        return self._store.versions()

    @property
    def embedder_name(self) -> str:
        return self._store.space.embedder

    def types(self, snapshot: int | None = None) -> dict[str, TaskType]:
        """All types of a snapshot, or of the present state, by id and in order of it. Raises UserError."""
        found = map(_task_type, self._store.rows(snapshot).to_pylist())
        return {task_type.id: task_type for task_type in sorted(found, key=lambda known: known.id)}

    def get(self, type_id: str) -> TaskType | None:
        return _only(self._store.row(type_id))

    def taught_by(self, question_id: str) -> TaskType | None:
        """The type that a question's round was the last to change: that round is done, the memory has it."""
        return _only(self._store.taught_by(question_id))

    def nearest(self, description: str, count: int) -> list[TaskType]:
        """The `count` types whose descriptions lie nearest to one, nearest first."""
        (vector,) = self._embed([description])
        return [_task_type(row) for row in self._store.nearest(vector, count).to_pylist()]

    def likeness(self, one: TaskType, other: TaskType) -> float:
        """The cosine of two types' descriptions."""
        first, second = self._embed([one.description, other.description])
        return float(first @ second)

    def write(self, task_type: TaskType, examples: Sequence[Example] = ()) -> int:
        """Store a type, new or changed, and examples that it cites; returns the new snapshot."""
        if examples:
            rows = [asdict(example) for example in examples]
            self._store.add_examples(pa.Table.from_pylist(rows, schema=EXAMPLE_SCHEMA))
        return self._store.write(self._stored(task_type))

    def unite(self, task_type: TaskType, gone: str) -> int:
        """Store a type and remove another one, by its id, in one write; returns the new snapshot."""
        return self._store.write(self._stored(task_type), without=gone)

    def revise(self, type_id: str, experience: Experience) -> int:
        """Put an experience in place of a stored type's; returns the new snapshot. Needs no embedder."""
        row = self._store.row(type_id).to_pylist()[0] | _lists(experience)
        return self._store.write(pa.Table.from_pylist([row], schema=self._store.row_schema))

    def restore(self, snapshot: int) -> int:
        """Return to a snapshot; returns the number of the new one, which equals it. Raises UserError."""
        return self._store.restore(snapshot)

    def roll_back(self, type_id: str, snapshot: int) -> int:
        """Return one type to what it was in a snapshot, or remove it where it was not there yet; returns the new
        snapshot. Raises UserError."""
        rows = self._store.rows(snapshot)
        row = rows.filter(pc.field("id") == type_id)
        return self._store.write(row) if row.num_rows else self._store.remove(type_id)

    def examples(self, ids: Iterable[str] | None = None) -> dict[str, Example]:
        """Practised examples by id: these, or all."""
        wanted = None if ids is None else set(ids)
        found = map(_example, self._store.examples().to_pylist())
        return {example.id: example for example in found if wanted is None or example.id in wanted}

    def examples_of(self, type_id: str) -> list[Example]:
        """The examples that a type was practised on, in order of time."""
        return list(map(_example, self._store.examples_of(type_id).to_pylist()))

    def add_pair(self, played: PlayedPair) -> None:
        """Keep what a pair of halves has shown."""
        self._store.add_pairs(pa.Table.from_pylist([asdict(played)], schema=PAIR_SCHEMA))

    def pairs_of(self, type_id: str) -> list[PlayedPair]:
        """The pairs that a type was judged by, in order of time. One that was played again, of a run that was resumed,
        counts once, as it was played last."""
        found = sorted(self._store.pairs_of(type_id).to_pylist(), key=lambda row: row["played_at"])
        by_id = {row["id"]: row for row in found}
        return [PlayedPair(**{**row, "item_ids": tuple(row["item_ids"])}) for row in by_id.values()]

    def _stored(self, task_type: TaskType) -> pa.Table:
        row = {**_row(task_type), "vector": self._embed([task_type.description])[0]}
        return pa.Table.from_pylist([row], schema=self._store.row_schema)

    def _embed(self, texts: Sequence[str]) -> Any:
        if self._embedder is None:
            raise RuntimeError("this memory was opened for inspection: it has no embedder")
        return self._embedder.embed(texts)


def _row(task_type: TaskType) -> dict[str, Any]:
    row = {field.name: getattr(task_type, field.name) for field in fields(TaskType) if field.name != "experience"}
    return row | _lists(task_type.experience)


def _lists(experience: Experience) -> dict[str, Any]:
    return {
        "suggestions": [asdict(item) for item in experience.suggestions],
        "procedure": [asdict(item) for item in experience.procedure],
    }


def _only(rows: pa.Table) -> TaskType | None:
    return _task_type(rows.to_pylist()[0]) if rows.num_rows else None


def _task_type(row: dict[str, Any]) -> TaskType:
    experience = Experience(_items(row["suggestions"]), _items(row["procedure"]))
    others = {field.name: row[field.name] for field in fields(TaskType) if field.name != "experience"}
    return TaskType(experience=experience, **others)


def _items(rows: list[dict[str, Any]] | None) -> tuple[Item, ...]:
    return tuple(Item(r["id"], r["text"], tuple(r["examples"]), tuple(r["parents"])) for r in rows or ())


def _example(row: dict[str, Any]) -> Example:
    return Example(**{**row, "votes": tuple(row["votes"])})
