"""Upkeep of a memory, beyond the paper: what a round has changed is tried before it stays, and types become one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from experience.answering import answer
from experience.asking import Prompter
from experience.memory import Memory
from experience.merging import merge
from experience.practice import judge
from experience.prompts.replies import Naming
from experience.records import Example, Experience, TaskType
from experience.taxonomy import vote
from experience.utility import must_roll_back

NEAR = 0.9
"""Cosine of two descriptions from which on they may be of one type. A vote decides."""


@dataclass(frozen=True, slots=True)
class Upkeep:
    """What is done beside the paper's steps; usually nothing.

    Attributes:
        replay: right practice questions of a type, the latest, on which a changed experience must not do worse.
        unite: whether types whose descriptions are `NEAR` each other are united where a vote calls them identical.
    """

    replay: int = 0
    unite: bool = False


async def stands(prompter: Prompter, before: Experience, after: Experience, examples: Sequence[Example]) -> bool:
    """Whether an experience does no worse than the one before it, beyond chance, on questions that were answered right.

    Each is answered anew with both, and judged by its right answer. Raises StepFailed and what the model raises.
    """
    shares = [[await _success(prompter, one, experience) for one in examples] for experience in (before, after)]
    return not must_roll_back(*shares)


async def united(prompter: Prompter, memory: Memory, known: TaskType, question: str) -> TaskType:
    """The type after it was united with the one of the nearest description, if they are identical; else as it is.

    The one with more rounds, or else the other, keeps its name and gets the experience of both, merged; the one that
    goes is removed in the same write. Of rounds without an error in a row the fewer count. Raises StepFailed, with
    nothing stored, and what the model raises.

    Args:
        question: one of the type, by which its identity is judged.
    """
    other = next((one for one in memory.nearest(known.description, 2) if one.id != known.id), None)
    if other is None or memory.likeness(known, other) < NEAR:
        return known
    naming = Naming(name=known.name, description=known.description)
    if (await vote(prompter, question, naming, [other]))[0] is None:
        return known
    kept, gone = (known, other) if known.rounds > other.rounds else (other, known)
    stored = frozenset(item.id for one in (kept, gone) for item in one.experience.items)
    both = replace(
        kept,
        experience=await merge(prompter, kept, kept.experience, gone.experience, stored),
        error_free=min(kept.error_free, gone.error_free),
        rounds=kept.rounds + gone.rounds,
        correct=kept.correct + gone.correct,
        wrong=kept.wrong + gone.wrong,
        inconclusive=kept.inconclusive + gone.inconclusive,
        taught_by=known.taught_by,
    )
    memory.unite(both, gone.id)
    return both


async def _success(prompter: Prompter, example: Example, experience: Experience) -> float:
    reply = await answer(prompter, example.question, experience)
    verdict, _ = await judge(prompter, f"The right answer: {example.answer}", example.question, reply.answer)
    return float(verdict == "correct")
