"""What practised examples teach: insights from right and wrong answers, each citing its examples."""

from __future__ import annotations

from collections.abc import Sequence

from experience.asking import INDUCE, Prompter
from experience.merging import experience_of
from experience.prompts.replies import Insight, Insights, one_of
from experience.records import MAX_ITEMS, NOTHING, Example, Experience, Item, TaskType


async def induce(prompter: Prompter, target: TaskType, examples: Sequence[Example]) -> Experience:
    """Experience from examples alone: the prompt knows neither the type's name nor what is known of it already.

    Nothing without examples. Raises StepFailed and what the model raises.
    """
    if not examples:
        return NOTHING
    by_label = {str(number): example for number, example in enumerate(examples, start=1)}
    reply = await prompter.ask(INDUCE, Insights[one_of(by_label)], examples=list(by_label.items()), most=MAX_ITEMS)

    def item(insight: Insight[str]) -> Item:
        return Item.of(target.id, insight.text, (by_label[label].id for label in insight.basis))

    return experience_of(map(item, reply.suggestions), map(item, reply.procedure))
