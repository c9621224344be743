"""What other task types know that helps with this one."""

from __future__ import annotations

from experience.asking import SOURCES, TRANSFER, Prompter
from experience.memory import Memory
from experience.merging import drawn_from, label_all
from experience.prompts.replies import Insights, Sources, one_of
from experience.records import MAX_ITEMS, NOTHING, Experience, TaskType

CANDIDATES = 10
"""Task types, nearest by description, among which the model picks its sources."""


async def transfer(prompter: Prompter, memory: Memory, target: TaskType) -> Experience:
    """General experience of other types in words that fit `target`; nothing where the model picks no source.

    The target itself is no source, nor is a type that knows nothing yet. Raises StepFailed and what the model raises.
    """
    sources = await _choose(prompter, memory, target)
    if not sources:
        return NOTHING
    labelled, by_label = label_all(source.experience for source in sources)
    reply = await prompter.ask(
        TRANSFER,
        Insights[one_of(by_label)],
        target=target,
        sources=list(zip(sources, labelled, strict=True)),
        most=MAX_ITEMS,
    )
    return drawn_from(target.id, reply, by_label, frozenset(item.id for item in by_label.values()))


async def _choose(prompter: Prompter, memory: Memory, target: TaskType) -> list[TaskType]:
    others = [known for known in memory.nearest(target.description, CANDIDATES + 1) if known.id != target.id]
    by_label = {str(number): known for number, known in enumerate(others[:CANDIDATES], start=1) if known.experience}
    if not by_label:
        return []
    reply = await prompter.ask(SOURCES, Sources[one_of(by_label)], target=target, candidates=list(by_label.items()))
    return [known for label, known in by_label.items() if label in reply.sources]
