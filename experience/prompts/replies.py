"""The form of every step's reply: pydantic models, whose JSON schema binds the decoder.

Reasoning comes before the answer, since a model writes from left to right. The greatest lengths stand in the schema
alone: they keep a decoder that is bound by it within the step's tokens, and a reply that another endpoint made longer
is no worse for it. Labels of what may be chosen are a type parameter: `Match[one_of(["1", "2", "none"])]`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, GetJsonSchemaHandler, StringConstraints
from pydantic.json_schema import JsonSchemaValue

from experience.prompts import from_data
from experience.records import MAX_ITEMS, Verdict

LEAST_REASONING = 20
"""Characters: less is no reasoning, and the step is asked again."""


@dataclass(frozen=True, slots=True)
class _AtMost:
    """The greatest length of a text, for the schema only."""

    characters: int

    def __get_pydantic_json_schema__(self, core_schema: Any, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(core_schema) | {"maxLength": self.characters}


_Read = AfterValidator(from_data)
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1), _Read]
"""A text that is not empty, as its model meant it."""
Reasoning = Annotated[str, StringConstraints(strip_whitespace=True, min_length=LEAST_REASONING), _Read]


def one_of(labels: Iterable[str]) -> Any:
    """The type of a choice among labels."""
    return Literal[tuple(labels)]


Label = TypeVar("Label")


class Reply(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Naming(Reply):
    """What type of task a question is, without anything that only this question has."""

    name: Annotated[Text, _AtMost(80)]
    description: Annotated[Text, _AtMost(600)]


class Match(Reply, Generic[Label]):
    """Which known type is the same one."""

    reasoning: Annotated[Reasoning, _AtMost(200)]
    answer: Label


class Sources(Reply, Generic[Label]):
    """Which known types have something to teach."""

    reasoning: Annotated[Reasoning, _AtMost(200)]
    sources: Annotated[list[Label], Field(max_length=10)]


class Insight(Reply, Generic[Label]):
    """A piece of advice and the labels of what it comes from."""

    text: Annotated[Text, _AtMost(160)]
    basis: Annotated[list[Label], Field(min_length=1, max_length=10)]


class Insights(Reply, Generic[Label]):
    """Two lists of advice: the reply of transfer, merge and induction."""

    reasoning: Annotated[Reasoning, _AtMost(600)]
    suggestions: Annotated[list[Insight[Label]], Field(max_length=MAX_ITEMS)]
    procedure: Annotated[list[Insight[Label]], Field(min_length=1, max_length=MAX_ITEMS)]


class NewQuestion(Reply):
    """A question to practise on."""

    question: Annotated[Text, _AtMost(2000)]


class Answer(Reply):
    """An answer, after how the experience applies to the question."""

    plan: Annotated[Text, _AtMost(600)]
    reasoning: Annotated[Reasoning, _AtMost(1500)]
    answer: Annotated[Text, _AtMost(300)]


class Judgement(Reply):
    """Whether an answer is right."""

    reasoning: Annotated[Reasoning, _AtMost(1000)]
    verdict: Verdict


BEST_GRADE = 10


class Grade(Reply):
    """How good an answer is, from 0 to 10: models agree with themselves better on whole numbers than on fractions."""

    reasoning: Annotated[Reasoning, _AtMost(1000)]
    grade: Annotated[int, Field(ge=0, le=BEST_GRADE)]
