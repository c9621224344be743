"""Practice: questions of a type made from reference texts, answered with what is known, and judged by vote."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from experience.answering import answer
from experience.asking import JUDGE, QUESTION, Prompter
from experience.prompts.replies import Judgement, NewQuestion
from experience.records import Example, Experience, Reference, TaskType, Verdict

WANTED = 5
"""Conclusive examples after which a round of practice is over."""
ENOUGH = 3
"""Error-free rounds in a row after which a type is practised no more."""


@dataclass(frozen=True, slots=True)
class Practice:
    """A round of practice: its conclusive examples, and how many were inconclusive and dropped."""

    examples: tuple[Example, ...] = ()
    inconclusive: int = 0

    @property
    def wrong(self) -> int:
        return sum(example.verdict == "wrong" for example in self.examples)


def is_enough(task_type: TaskType) -> bool:
    """Whether the type needs no more practice."""
    return task_type.error_free >= ENOUGH


def counted(task_type: TaskType, practice: Practice) -> TaskType:
    """The type with a round of practice added to its counts.

    An error sets the error-free rounds back to none. A round without any conclusive example says nothing: the authors'
    code takes it for error-free, so that a type whose questions cannot be judged is soon never practised again; here it
    leaves the count as it is.
    """
    error_free = task_type.error_free
    if practice.examples:
        error_free = 0 if practice.wrong else error_free + 1
    return replace(
        task_type,
        error_free=error_free,
        rounds=task_type.rounds + 1,
        correct=task_type.correct + len(practice.examples) - practice.wrong,
        wrong=task_type.wrong + practice.wrong,
        inconclusive=task_type.inconclusive + practice.inconclusive,
    )


async def practise(
    prompter: Prompter, target: TaskType, experience: Experience, references: Sequence[Reference], round_id: str
) -> Practice:
    """One question a reference, until `WANTED` examples are conclusive or the references run out.

    Args:
        experience: what the questions are answered with.
        round_id: begins the ids of the examples.

    Raises StepFailed and what the model raises.
    """
    examples: list[Example] = []
    inconclusive = 0
    for number, reference in enumerate(references, start=1):
        if len(examples) == WANTED:
            break
        made = await prompter.ask(QUESTION, NewQuestion, target=target, reference=reference.text)
        reply = await answer(prompter, made.question, experience)
        verdict, votes = await judge(prompter, reference.text, made.question, reply.answer)
        if verdict == "inconclusive":
            inconclusive += 1
            continue
        examples.append(
            Example(f"{round_id}/{number}", target.id, reference.id, made.question, reply.answer, verdict, votes)
        )
    return Practice(tuple(examples), inconclusive)


async def judge(prompter: Prompter, reference: str, question: str, reply: str) -> tuple[Verdict, tuple[Verdict, ...]]:
    """The verdict that repeats first, and all votes; of three verdicts one does after four votes at the latest."""
    votes: list[Verdict] = []
    while True:
        judged = await prompter.ask(JUDGE, Judgement, reference=reference, question=question, answer=reply)
        votes.append(judged.verdict)
        if Counter(votes)[judged.verdict] == 2:
            return judged.verdict, tuple(votes)
