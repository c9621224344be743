"""`concerto memory`: look at a memory of experience, compare two states of it, return to one."""

from __future__ import annotations

import json
from pathlib import Path

from experience.memory import Memory
from experience.snapshots import differences, exported, shown
from trajectories.files import written_aside


def show_memory(path: str, snapshot: int | None) -> list[str]:
    """A snapshot, or the present state, in lines. Raises UserError."""
    memory = Memory.inspect(path)
    first, last = memory.snapshots[0], memory.snapshots[-1]
    heading = f"Snapshot {snapshot or memory.snapshot} of {first} to {last}, vectors of {memory.embedder_name}"
    return [heading, *shown(memory.types(snapshot))]


def export_memory(path: str, out: Path, snapshot: int | None) -> int:
    """Write a snapshot, or the present state, as JSON; returns the number of its types. Raises UserError."""
    memory = Memory.inspect(path)
    types = memory.types(snapshot)
    data = exported(types, memory.examples(), snapshot or memory.snapshot, memory.embedder_name)
    with written_aside(out) as aside:
        aside.write_text(json.dumps(data, ensure_ascii=False, indent=1), encoding="utf-8")
    return len(types)


def diff_memory(path: str, before: int, after: int | None) -> list[str]:
    """What changed from a snapshot to another, or to the present state, a line each. Raises UserError."""
    memory = Memory.inspect(path)
    return differences(memory.types(before), memory.types(after)) or ["no difference"]


def restore_memory(path: str, snapshot: int) -> int:
    """Return to a snapshot; returns the number of the new one, which equals it. Raises UserError."""
    return Memory.inspect(path).restore(snapshot)
