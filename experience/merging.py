"""Experience out of a model's reply, with its provenance, and two pieces of experience merged into one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from experience.asking import MERGE, Prompter
from experience.prompts.replies import Insight, Insights, one_of
from experience.records import MAX_ITEMS, Experience, Item, TaskType


@dataclass(frozen=True, slots=True)
class Labelled:
    """An experience whose items have labels that a reply can cite."""

    suggestions: tuple[tuple[str, Item], ...]
    procedure: tuple[tuple[str, Item], ...]

    @classmethod
    def of(cls, experience: Experience, first: int) -> Labelled:
        """Labels are numbers from `first` on."""
        labels = [str(first + offset) for offset in range(len(experience.items))]
        pairs = tuple(zip(labels, experience.items, strict=True))
        split = len(experience.suggestions)
        return cls(pairs[:split], pairs[split:])

    @property
    def by_label(self) -> dict[str, Item]:
        return dict(self.suggestions + self.procedure)


def label_all(experiences: Iterable[Experience]) -> tuple[list[Labelled], dict[str, Item]]:
    """Each with its labels, and the items of all by label."""
    labelled: list[Labelled] = []
    by_label: dict[str, Item] = {}
    for experience in experiences:
        labelled.append(Labelled.of(experience, first=len(by_label) + 1))
        by_label |= labelled[-1].by_label
    return labelled, by_label


async def merge(
    prompter: Prompter, target: TaskType, kept: Experience, added: Experience, stored: frozenset[str]
) -> Experience:
    """What two pieces of experience with `target` say together, at most `MAX_ITEMS` items a list.

    Where one of them is empty there is nothing to ask. `stored` are the ids of items that a memory has, which alone can
    be parents. Raises StepFailed and what the model raises.
    """
    if not kept or not added:
        return kept or added
    sides, by_label = label_all([kept, added])
    reply = await prompter.ask(MERGE, Insights[one_of(by_label)], target=target, sides=sides, most=MAX_ITEMS)
    return drawn_from(target.id, reply, by_label, stored)


def drawn_from(type_id: str, reply: Insights[str], by_label: Mapping[str, Item], stored: frozenset[str]) -> Experience:
    """The experience in a reply whose entries cite items. An entry goes back to all examples of what it cites; its
    parents are the stored items among that, and the parents of those that were never stored."""

    def item(insight: Insight[str]) -> Item:
        cited = [by_label[label] for label in insight.basis]
        name = Item.of(type_id, insight.text).id
        parents = [
            parent
            for source in cited
            for parent in ((source.id,) if source.id in stored and source.id != name else source.parents)
        ]
        examples = [example for source in cited for example in source.examples]
        return Item.of(type_id, insight.text, examples, parents)

    return experience_of(map(item, reply.suggestions), map(item, reply.procedure))


def experience_of(suggestions: Iterable[Item], procedure: Iterable[Item]) -> Experience:
    """The lists without repetitions."""
    return Experience(_distinct(suggestions), _distinct(procedure))


def _distinct(items: Iterable[Item]) -> tuple[Item, ...]:
    return tuple({item.id: item for item in items}.values())
