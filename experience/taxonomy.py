"""Which type of task a question is: the type is induced from the question, then sought among those that are known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from experience.asking import MATCH, NAME, Prompter
from experience.memory import Memory
from experience.prompts.replies import Match, Naming, one_of
from experience.records import TaskType

RETRIEVED = 10
"""Task types that dense retrieval finds by their description."""
CANDIDATES = 5
"""Of these, how many the model compares the question's type with."""
NONE, UNSURE = "none", "unsure"


@dataclass(frozen=True, slots=True)
class Identified:
    """The type of a question.

    Attributes:
        task_type: the stored one where it is known already, else a new one that is stored nowhere yet.
        known: whether it is.
        votes: names of the types that were voted for, `none` where none was.
    """

    task_type: TaskType
    known: bool
    votes: tuple[str, ...] = ()


async def identify(prompter: Prompter, memory: Memory, question: str) -> Identified:
    """Induce the type of a question and find it in the memory. Raises StepFailed and what the model raises.

    What the model names in exactly the words of a stored type is that type, without a vote.
    """
    naming = await prompter.ask(NAME, Naming, question=question)
    induced = TaskType.new(naming.name, naming.description)
    retrieved = memory.nearest(naming.description, RETRIEVED)
    for known in retrieved:
        if known.id == induced.id:
            return Identified(known, known=True)
    chosen, votes = await vote(prompter, question, naming, retrieved[:CANDIDATES])
    return Identified(chosen or induced, chosen is not None, votes)


async def vote(
    prompter: Prompter, question: str, naming: Naming, candidates: Sequence[TaskType]
) -> tuple[TaskType | None, tuple[str, ...]]:
    """The candidate, or None, that is named twice first, and all votes by name; unsure counts as none.

    Of n candidates and none, n + 1 answers in all, one is named twice after n + 2 votes at the latest.
    """
    if not candidates:
        return None, ()
    by_label = {str(number): known for number, known in enumerate(candidates, start=1)}
    reply = Match[one_of([*by_label, NONE, UNSURE])]
    data = {"question": question, "naming": naming, "candidates": list(by_label.items())}
    counts: Counter[str] = Counter()
    votes: list[str] = []
    while True:
        answer = (await prompter.ask(MATCH, reply, **data)).answer
        answer = NONE if answer == UNSURE else answer
        counts[answer] += 1
        votes.append(by_label[answer].name if answer in by_label else NONE)
        if counts[answer] == 2:
            return by_label.get(answer), tuple(votes)
