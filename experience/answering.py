"""Answering a question with the experience of its type in the prompt."""

from __future__ import annotations

from collections.abc import Sequence

from experience.asking import ANSWER, Prompter
from experience.prompts.replies import Answer
from experience.records import Example, Experience


async def answer(
    prompter: Prompter, question: str, experience: Experience, demonstrations: Sequence[Example] = ()
) -> Answer:
    """The answer, after a plan that adapts the experience to the question. Raises StepFailed and what the model raises.

    Args:
        demonstrations: practised examples to show instead of what would be induced from them.
    """
    return await prompter.ask(ANSWER, Answer, question=question, experience=experience, demonstrations=demonstrations)
