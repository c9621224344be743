"""One question through the whole method: categorise, enough?, transfer, practise, induce, answer."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from experience.answering import answer
from experience.asking import Prompter, StepFailed
from experience.induction import induce
from experience.memory import Memory
from experience.merging import merge
from experience.practice import Practice, counted, is_enough, practise
from experience.records import NOTHING, Example, Experience, TaskType
from experience.references import References
from experience.taxonomy import identify
from experience.transfer import transfer
from experience.upkeep import Upkeep, stands, united

logger = logging.getLogger(__name__)

REFERENCES = 10
"""Texts that a round of practice may use: twice the examples it wants, since some are inconclusive."""
DEMONSTRATIONS = 5
"""Right examples, the latest, that are shown where nothing is induced."""


@dataclass(frozen=True, slots=True)
class Ablation:
    """Which parts of learning are on.

    Attributes:
        transfer: take experience over from other types.
        induction: make insights of practised examples; without it the right ones are shown as they are.
    """

    transfer: bool = True
    induction: bool = True


@dataclass(frozen=True, slots=True)
class Served:
    """A question, answered.

    Attributes:
        answer: empty where no step gave one.
        type_id: the question's type; empty where none could be found.
        practice: the round that it began; None where the type needed none, or it failed.
        snapshot: of the memory that the answer was given with.
        item_ids: of the experience in the prompt.
        failures: steps that were given up, each with its reason.
    """

    answer: str
    type_id: str
    practice: Practice | None
    snapshot: int
    item_ids: tuple[str, ...]
    failures: tuple[str, ...]


class Rounds:
    """Rounds of learning: transfer, practice, induction, and the two merges.

    Args:
        replay: see `Upkeep`.
    """

    def __init__(self, prompter: Prompter, memory: Memory, ablation: Ablation, replay: int = 0) -> None:
        self._prompter = prompter
        self._memory = memory
        self._ablation = ablation
        self._replay = replay

    async def learn(
        self, known: TaskType, round_id: str, practise: Callable[[Experience], Awaitable[Practice]]
    ) -> tuple[TaskType, Practice]:
        """One round, stored in one write. Raises StepFailed, with nothing stored, and what the model raises.

        Args:
            round_id: unique among all that the memory ever stores; it finds the type that the round has changed.
            practise: practice with this experience.
        """
        stored = frozenset(item.id for item in known.experience.items)
        experience = await self._transferred(known, stored)
        practice = await practise(experience)
        if self._ablation.induction:
            induced = await induce(self._prompter, known, practice.examples)
            experience = await merge(self._prompter, known, experience, induced, stored)
        if not await self._stands(known, experience):
            logger.warning("%s keeps the experience it had: the new one does worse on earlier questions", known.name)
            experience = known.experience
        learned = replace(counted(known, practice), experience=experience, taught_by=round_id)
        self._memory.write(learned, practice.examples)
        return learned, practice

    async def _stands(self, known: TaskType, experience: Experience) -> bool:
        if not self._replay or not known.experience:
            return True
        right = [example for example in self._memory.examples_of(known.id) if example.verdict == "correct"]
        return await stands(self._prompter, known.experience, experience, right[-self._replay :])

    async def _transferred(self, known: TaskType, stored: frozenset[str]) -> Experience:
        if not self._ablation.transfer:
            return known.experience
        transferred = await transfer(self._prompter, self._memory, known)
        return await merge(self._prompter, known, known.experience, transferred, stored)


class Learner:
    """Serves questions and learns from them on the way, without labels.

    A step that gets no usable reply costs its question what it would have given, and no more: without a type there is
    no experience, without a round the type keeps what it has.
    """

    def __init__(
        self,
        prompter: Prompter,
        memory: Memory,
        references: References,
        ablation: Ablation | None = None,
        upkeep: Upkeep | None = None,
    ) -> None:
        self._prompter = prompter
        self._memory = memory
        self._references = references
        self._ablation = ablation or Ablation()
        self._upkeep = upkeep or Upkeep()
        self._rounds = Rounds(prompter, memory, self._ablation, self._upkeep.replay)

    async def serve(self, question_id: str, question: str) -> Served:
        """Learn for a question, and answer it.

        Args:
            question_id: unique among all that the memory ever serves. Where the memory has its round already, of a
                process that was killed before the answer, nothing is learned again.

        Raises what the model raises: nobody answers, or the budget is spent.
        """
        failures: list[str] = []
        practice, task_type = None, self._memory.taught_by(question_id)
        try:
            if task_type is None:
                task_type = (await identify(self._prompter, self._memory, question)).task_type
                if not is_enough(task_type):
                    task_type, practice = await self._learn(task_type, question_id, question)
                    if self._upkeep.unite:
                        task_type = await united(self._prompter, self._memory, task_type, question)
        except StepFailed as error:
            failures.append(_told(question_id, error))
        experience = task_type.experience if task_type else NOTHING
        text = ""
        try:
            text = (await answer(self._prompter, question, experience, self._demonstrations(task_type))).answer
        except StepFailed as error:
            failures.append(_told(question_id, error))
        return Served(
            text,
            task_type.id if task_type else "",
            practice,
            self._memory.snapshot,
            tuple(item.id for item in experience.items),
            tuple(failures),
        )

    async def _learn(self, known: TaskType, question_id: str, question: str) -> tuple[TaskType, Practice]:
        """A round of learning. Raises StepFailed, with nothing stored."""
        references = self._references.nearest(question, REFERENCES)

        async def practise_on(experience: Experience) -> Practice:
            return await practise(self._prompter, known, experience, references, question_id)

        return await self._rounds.learn(known, question_id, practise_on)

    def _demonstrations(self, known: TaskType | None) -> Sequence[Example]:
        if self._ablation.induction or known is None:
            return ()
        correct = [example for example in self._memory.examples_of(known.id) if example.verdict == "correct"]
        return correct[-DEMONSTRATIONS:]


def _told(question_id: str, error: StepFailed) -> str:
    logger.warning("question %s goes on without: %s", question_id, error)
    return str(error)
