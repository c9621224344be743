"""The form of every step's reply: pydantic models, whose JSON schema binds the decoder.

Reasoning comes before the answer, since a model writes from left to right. The greatest lengths stand in the schema
alone: they keep a decoder that is bound by it within the step's tokens, and a reply that another endpoint made longer
is no worse for it. Labels of what may be chosen are a type parameter: `Match[one_of(["1", "2", "none"])]`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from experience.prompts import from_data
from experience.records import MAX_ITEMS, Verdict

LEAST_REASONING = 20
"""Characters: less is no reasoning, and the step is asked again."""


def _text(most: int, least: int = 1) -> Any:
    """A text of `least` characters or more; a bound decoder stops at `most`."""
    return Annotated[
        str,
        StringConstraints(strip_whitespace=True, min_length=least),
        AfterValidator(from_data),
        Field(json_schema_extra={"maxLength": most}),
    ]


def one_of(labels: Iterable[str]) -> Any:
    """The type of a choice among labels."""
    return Literal[tuple(labels)]


Label = TypeVar("Label")


class Reply(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Naming(Reply):
    """What type of task a question is, without anything that only this question has."""

    name: _text(80)
    description: _text(600)


class Match(Reply, Generic[Label]):
    """Which known type is the same one."""

    reasoning: _text(200, LEAST_REASONING)
    answer: Label


class Sources(Reply, Generic[Label]):
    """Which known types have something to teach."""

    reasoning: _text(200, LEAST_REASONING)
    sources: Annotated[list[Label], Field(max_length=10)]


class Insight(Reply, Generic[Label]):
    """A piece of advice and the labels of what it comes from."""

    text: _text(160)
    basis: Annotated[list[Label], Field(min_length=1, max_length=10)]


class Insights(Reply, Generic[Label]):
    """Two lists of advice: the reply of transfer, merge and induction."""

    reasoning: _text(600, LEAST_REASONING)
    suggestions: Annotated[list[Insight[Label]], Field(max_length=MAX_ITEMS)]
    procedure: Annotated[list[Insight[Label]], Field(min_length=1, max_length=MAX_ITEMS)]


class NewQuestion(Reply):
    """A question to practise on."""

    question: _text(2000)


class Answer(Reply):
    """An answer, after how the experience applies to the question."""

    plan: _text(600)
    reasoning: _text(1500, LEAST_REASONING)
    answer: _text(300)


class Judgement(Reply):
    """Whether an answer is right."""

    reasoning: _text(1000, LEAST_REASONING)
    verdict: Verdict
