"""Asking the model: one step's prompt, its reply checked, asked again a bounded number of times, its tokens counted."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import ValidationError

from experience.prompts import render
from experience.prompts.replies import Reply
from experience.protocols import ChatModel, Completion, RefusedRequest
from trajectories.errors import RunError

logger = logging.getLogger(__name__)

TEMPERATURE = 1.0
_FENCED = re.compile(r"```\w*\s*(.*?)\s*```", re.DOTALL)
R = TypeVar("R", bound=Reply)


@dataclass(frozen=True, slots=True)
class Step:
    """A step of the method: its template's name, and the limits of the authors' code.

    Attributes:
        max_tokens: of one reply.
        attempts: times that the step is asked at most until a reply can be used.
    """

    name: str
    max_tokens: int
    attempts: int


NAME = Step("name", 512, 10)
MATCH = Step("match", 128, 5)
SOURCES = Step("sources", 128, 5)
TRANSFER = Step("transfer", 2048, 100)
MERGE = Step("merge", 2048, 5)
QUESTION = Step("question", 1024, 20)
ANSWER = Step("answer", 1024, 20)
JUDGE = Step("judge", 512, 20)
INDUCE = Step("induce", 2048, 20)
GRADE = Step("grade", 512, 3)
"""No step of the method: `learners.rewards.judge` asks it."""
STEPS = (NAME, MATCH, SOURCES, TRANSFER, MERGE, QUESTION, ANSWER, JUDGE, INDUCE, GRADE)


class StepFailed(Exception):
    """A step got no usable reply in all its attempts. The message says which, and why the last one was no use."""


class BudgetSpent(RunError):
    """The token budget is spent."""

    fix = "raise --token-budget and give the command again: it goes on where it stopped"


@dataclass(slots=True)
class Spending:
    """Tokens by step, and when to stop.

    Attributes:
        budget: tokens, read and written together, after which nothing more is asked; None: no end.
        prompt_tokens: read, by step.
        completion_tokens: written, by step.
        calls: completions by step.
        retries: of these, replies that could not be used.
    """

    budget: int | None = None
    prompt_tokens: Counter[str] = field(default_factory=Counter)
    completion_tokens: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    retries: Counter[str] = field(default_factory=Counter)

    @property
    def tokens(self) -> int:
        return self.prompt_tokens.total() + self.completion_tokens.total()

    def check(self) -> None:
        """Raises BudgetSpent."""
        if self.budget is not None and self.tokens >= self.budget:
            raise BudgetSpent(f"the token budget of {self.budget:,} is spent ({self.tokens:,} tokens)")

    def add(self, step: str, completion: Completion) -> None:
        self.calls[step] += 1
        self.prompt_tokens[step] += completion.prompt_tokens
        self.completion_tokens[step] += completion.completion_tokens

    def totals(self) -> dict[str, dict[str, int]]:
        """Step → `calls`, `retries`, `prompt_tokens`, `completion_tokens`, since the beginning."""
        counts: Mapping[str, Counter[str]] = {
            "calls": self.calls,
            "retries": self.retries,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
        }
        return {step: {name: count[step] for name, count in counts.items()} for step in sorted(self.calls)}


class Prompter:
    """Renders the prompts of steps and asks a chat model for replies of their form."""

    def __init__(self, model: ChatModel, spending: Spending) -> None:
        self._model = model
        self.spending = spending

    async def ask(self, step: Step, reply: type[R], **data: Any) -> R:
        """A reply of the wanted form.

        Raises:
            StepFailed: none came in `step.attempts` attempts, or the model refuses the request.
            ConcertoError: the budget is spent, or the model cannot be reached.
        """
        messages = [{"role": "user", "content": render(step.name, **data)}]
        schema = reply.model_json_schema()
        reason = ""
        for attempt in range(1, step.attempts + 1):
            self.spending.check()
            try:
                completion = await self._model.complete(messages, schema, step.max_tokens, TEMPERATURE)
            except RefusedRequest as error:
                raise StepFailed(f"{step.name}: the model refuses the request ({error})") from error
            self.spending.add(step.name, completion)
            try:
                return reply.model_validate_json(_json(completion.text))
            except ValidationError as error:
                reason = _in_words(error)
                self.spending.retries[step.name] += 1
                logger.info("%s: reply %d of at most %d is no use: %s", step.name, attempt, step.attempts, reason)
        raise StepFailed(f"{step.name}: no usable reply in {step.attempts} attempts, the last: {reason}")


def _json(text: str) -> str:
    """What a reply holds behind its thought and within a fence of code: endpoints that do not bind their decoder to the
    schema give both. One that begins with its object may say in it whatever it likes."""
    if text.lstrip().startswith("{"):
        return text
    said = text.rpartition("</think>")[2].strip()
    fenced = _FENCED.fullmatch(said)
    return fenced[1] if fenced else said


def _in_words(error: ValidationError) -> str:
    """The first fault: `procedure: List should have at least 1 item`."""
    first = error.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else first["msg"]
