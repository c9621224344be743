"""Advice: what a group of episodes is told of the experience with its kind of task, and how that is written.

`Book` is a snapshot as the prompts of a run need it: its kinds of tasks, their items and which come first. It is small
and travels as a whole; `Book.advice` opens it for one group; `written` makes the block in its prompts, in the tokens of
whoever reads it. The kind of a task follows from its environment and id (`envs.kinds`): nobody is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import zip_longest

from envs.kinds import task_kind
from experience.prompts import render
from experience.records import NOTHING, Experience, Item, TaskType, digest
from experience.utility import Utility, ranked


@dataclass(frozen=True, slots=True)
class Advice:
    """What a group's prompts may carry.

    Attributes:
        type_id: of the group's task type.
        snapshot: of the memory.
        state: names the whole experience of the type in it (`state_of`), of which `experience` may be a part.
        experience: suggestions and steps in their order.
        order: ids of its items, the most useful first.
        max_tokens: that the block may have.
        without: members of the group, its last ones, that play without it.
    """

    type_id: str
    snapshot: int
    state: str
    experience: Experience
    order: tuple[str, ...]
    max_tokens: int
    without: int = 0


@dataclass(frozen=True, slots=True)
class Block:
    """Advice as it stands in a prompt, and the ids of the items in it, the most useful first. Both empty: there is
    none."""

    text: str = ""
    item_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """A type's experience, and the ids of its items, the most useful first."""

    experience: Experience = NOTHING
    order: tuple[str, ...] = ()

    @classmethod
    def of(cls, experience: Experience, utilities: Mapping[str, Utility]) -> Page:
        """Items without evidence take turns: a step, a suggestion, a step, …"""
        turns = zip_longest(experience.procedure, experience.suggestions)
        items = [item for pair in turns for item in pair if item is not None]
        return cls(experience, tuple(dict.fromkeys(item.id for item in ranked(items, utilities))))


@dataclass(frozen=True, slots=True)
class Book:
    """A snapshot as the prompts of a run are made of it: pages by task type's id."""

    snapshot: int
    pages: Mapping[str, Page] = field(default_factory=dict)

    def advice(self, environment: str, task_id: str, max_tokens: int) -> Advice:
        """All that is known of the task's type; of a type that the book has no page for, nothing."""
        type_id = type_of(environment, task_id).id
        page = self.pages.get(type_id, Page())
        return Advice(type_id, self.snapshot, state_of(page.experience), page.experience, page.order, max_tokens)


def type_of(environment: str, task_id: str) -> TaskType:
    """The type of a task, as its environment and its id tell; what a memory knows of it has the same id."""
    kind = task_kind(environment, task_id).replace("_", " ")
    name = f"{environment}: {kind}" if kind else environment
    described = f" of the kind {kind}" if kind else ""
    return TaskType.new(name, f"Tasks of the environment {environment}{described}.")


def types_of(tasks: Iterable[tuple[str, str]]) -> tuple[TaskType, ...]:
    """The types of tasks, given as environment and id, each once."""
    return tuple({known.id: known for known in (type_of(*task) for task in tasks)}.values())


def state_of(experience: Experience) -> str:
    """Names an experience by its items, whatever their order."""
    return digest(*sorted(item.id for item in experience.items)) if experience else ""


def half_of(advice: Advice, draw: str) -> Advice:
    """The advice with about half of its items, by a lot that `draw` decides; one at least, where there is one.

    Where all items always stand in the prompt together, all have the same utility: what is shown must differ between
    groups. So does what the cap leaves out, or else it would never have any evidence.
    """
    lots = {name: int(digest(draw, name), 16) for name in advice.order}
    ids = {name for name, lot in lots.items() if lot % 2} or set(sorted(lots, key=lambda name: lots[name])[:1])
    order = tuple(name for name in advice.order if name in ids)
    return replace(advice, experience=_only(advice.experience, ids), order=order)


def written(advice: Advice, count_tokens: Callable[[str], int]) -> Block:
    """The block of as many items as fit into `advice.max_tokens`, the most useful first: one that does not fit is left
    out, and the next one tried. Items stand in it in their own order, since a procedure is one."""
    block, chosen = Block(), set[str]()
    for name in advice.order:
        experience = _only(advice.experience, chosen | {name})
        if count_tokens(text := render("advice", experience=experience)) <= advice.max_tokens:
            chosen.add(name)
            block = Block(text, (*block.item_ids, name))
    return block


def _only(experience: Experience, ids: set[str]) -> Experience:
    def kept(items: tuple[Item, ...]) -> tuple[Item, ...]:
        return tuple(item for item in items if item.id in ids)

    return Experience(kept(experience.suggestions), kept(experience.procedure))
