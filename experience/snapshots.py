"""Snapshots to look at: as text, as plain data, and what differs between two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from experience.records import Example, Item, TaskType

Types = Mapping[str, TaskType]
"""A snapshot: types by id."""


def shown(types: Types) -> list[str]:
    """A snapshot in lines: every type, its counts and its experience."""
    lines: list[str] = []
    for known in types.values():
        counts = f"{known.correct} correct, {known.wrong} wrong, {known.inconclusive} inconclusive"
        lines += [
            f"{known.name} ({known.id})",
            f"  {known.description}",
            f"  {known.rounds} rounds: {counts}; {known.error_free} error-free in a row",
            *_listed("suggestions", known.experience.suggestions),
            *_listed("procedure", known.experience.procedure),
        ]
    return lines


def exported(types: Types, examples: Mapping[str, Example], snapshot: int, embedder: str) -> dict[str, Any]:
    """A snapshot as plain data: types with their experience, and the examples that these go back to."""
    cited = {name for known in types.values() for item in known.experience.items for name in item.examples}
    return {
        "snapshot": snapshot,
        "embedder": embedder,
        "types": [asdict(known) for known in types.values()],
        "examples": [asdict(example) for name, example in sorted(examples.items()) if name in cited],
    }


def differences(before: Types, after: Types) -> list[str]:
    """What has changed, a line each: `+` and `-` for types and items that came and went, `~` for counts."""
    lines: list[str] = []
    for name in dict.fromkeys((*before, *after)):
        old, new = before.get(name), after.get(name)
        lines += _changed(old, new) if old and new else [_came_or_went(old, new)]
    return lines


def _came_or_went(old: TaskType | None, new: TaskType | None) -> str:
    sign, known = ("+", new) if new else ("-", old)
    assert known is not None
    return f"{sign} {known.name} ({known.id}), {len(known.experience.items)} items"


def _changed(old: TaskType, new: TaskType) -> list[str]:
    before = {item.id: item for item in old.experience.items}
    after = {item.id: item for item in new.experience.items}
    counts = [
        f"{count} {getattr(old, count)} → {getattr(new, count)}"
        for count in ("rounds", "correct", "wrong", "inconclusive", "error_free")
        if getattr(old, count) != getattr(new, count)
    ]
    lines = [f"  - {before[name].text}" for name in before if name not in after]
    lines += [f"  + {after[name].text}" for name in after if name not in before]
    if not lines and not counts:
        return []
    return [f"~ {new.name} ({new.id}){': ' + ', '.join(counts) if counts else ''}", *lines]


def _listed(heading: str, items: tuple[Item, ...]) -> list[str]:
    if not items:
        return [f"  {heading}: none"]
    return [f"  {heading}:", *(f"    {n}. {item.text} [{len(item.examples)}]" for n, item in enumerate(items, start=1))]
