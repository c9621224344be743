"""What a memory holds: task types, their experience, and the practised examples that it came from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

MAX_ITEMS = 20
"""Items of each list of an experience (the paper's)."""

Verdict = Literal["correct", "wrong", "inconclusive"]


@dataclass(frozen=True, slots=True)
class Item:
    """One piece of advice.

    Attributes:
        id: of the task type and the text: an item that a merge leaves as it is keeps its id, and with it its utility.
        examples: ids of all practised examples that it goes back to, also over other task types.
        parents: ids of the stored items that it was transferred or merged from.
    """

    id: str
    text: str
    examples: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()

    @classmethod
    def of(cls, type_id: str, text: str, examples: Iterable[str] = (), parents: Iterable[str] = ()) -> Item:
        """An item of a task type, its sources without repetitions and in their order."""
        name = digest(type_id, text)
        return cls(name, text, tuple(dict.fromkeys(examples)), tuple(dict.fromkeys(p for p in parents if p != name)))


@dataclass(frozen=True, slots=True)
class Experience:
    """What is known of a task type: loose suggestions, and a procedure, step by step. At most `MAX_ITEMS` of each."""

    suggestions: tuple[Item, ...] = ()
    procedure: tuple[Item, ...] = ()

    @property
    def items(self) -> tuple[Item, ...]:
        return self.suggestions + self.procedure

    def __bool__(self) -> bool:
        return bool(self.items)


NOTHING = Experience()


@dataclass(frozen=True, slots=True)
class TaskType:
    """A type of task, and what is known of it.

    Attributes:
        error_free: rounds of practice without an error in a row, up to now.
        rounds: rounds of practice.
        correct: practised examples that were judged so; so are `wrong` and `inconclusive`.
        taught_by: id of the question whose round was the last to change this record.
    """

    id: str
    name: str
    description: str
    experience: Experience = NOTHING
    error_free: int = 0
    rounds: int = 0
    correct: int = 0
    wrong: int = 0
    inconclusive: int = 0
    taught_by: str = ""

    @classmethod
    def new(cls, name: str, description: str) -> TaskType:
        return cls(f"type-{digest(name, description)}", name, description)


@dataclass(frozen=True, slots=True)
class Reference:
    """A text that a practice question is made from."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class Example:
    """A practised question with a conclusive verdict.

    Attributes:
        reference: id of the text that the question was made from.
        votes: the judgements, in their order.
    """

    id: str
    type_id: str
    reference: str
    question: str
    answer: str
    verdict: Verdict
    votes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PlayedPair:
    """A group of which a part played with experience and the others without.

    Attributes:
        id: of the run and its group.
        state: names the whole experience that the type had then (`experience.advice.state_of`).
        snapshot: of the memory then.
        item_ids: of the items in the prompts.
        with_experience: share of the successful ones among those that had them; `without` the same of the others.
        played_at: seconds since 1970.
    """

    id: str
    type_id: str
    state: str
    snapshot: int
    item_ids: tuple[str, ...]
    with_experience: float
    without: float
    played_at: float


def digest(*parts: str) -> str:
    """Twelve hex digits that name these texts; the same in every process."""
    return hashlib.blake2b("\x1f".join(parts).encode(errors="replace"), digest_size=6).hexdigest()
