"""The fields of question files, and how a row becomes a `Question`.

A file's format is told by its fields: that of the first row with all fields of a format. A row is refused, with a
reason, if a field is missing, empty or mistyped, or if a multiple-choice question has no answer (as in blind test
sets). Texts stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from envs.questions.question import LETTERS, Question
from envs.questions.scoring import normalise

Row = Mapping[str, object]

MMLU_COLUMNS = ("question", "A", "B", "C", "D", "answer")
"""MMLU's .csv files have no header."""
HELP_LABELS = ("entailment", "neutral")
BEHIND_WORKING = "####"
"""What GSM8K writes before the answer itself."""


class RowError(ValueError):
    """The row cannot become a question; the message is the reason."""


@dataclass(frozen=True, slots=True)
class Format:
    """A format: the fields that every row has, and the reader of one row, which raises RowError."""

    name: str
    fields: frozenset[str]
    parse: Callable[[Row], Question]


def _mmlu(row: Row) -> Question:
    """MMLU (Hendrycks et al. 2021), .csv: question, four choices, letter. Its Parquet files are in our own format."""
    choices = tuple(_text(row, column) for column in MMLU_COLUMNS[1:-1])
    return _choice(_text(row, "question"), choices, _letter(row, "answer", len(choices)))


def _ecare(row: Row) -> Question:
    """e-CARE (Du et al. 2022), .jsonl: the more plausible cause or effect; label 0 or 1."""
    asked = _text(row, "ask-for")
    if asked not in ("cause", "effect"):
        raise RowError(f"ask-for is {asked[:40]!r}, not cause or effect")
    text = f"{_text(row, 'premise')}\nWhat is the more plausible {asked}?"
    return _choice(text, (_text(row, "hypothesis1"), _text(row, "hypothesis2")), _number(row, "label", 0, 2))


def _socialiqa(row: Row) -> Question:
    """SocialIQA (Sap et al. 2019), .jsonl: `correct` is a letter (1.4), or `label` 1 to 3, in the row or beside it."""
    choices = tuple(_text(row, field) for field in ("answerA", "answerB", "answerC"))
    answer = _letter(row, "correct", 3) if "correct" in row else _number(row, "label", 1, 3)
    return _choice(f"{_text(row, 'context')}\n{_text(row, 'question')}", choices, answer)


def _winogrande(row: Row) -> Question:
    """WinoGrande (Sakaguchi et al. 2020), .jsonl: what fills the blank `_`; `answer`, or `label` beside it, 1 or 2."""
    sentence = _text(row, "sentence")
    if "_" not in sentence:
        raise RowError("the sentence has no blank _")
    answer = _number(row, "answer" if "answer" in row else "label", 1, 2)
    return _choice(f"{sentence}\nWhat does _ stand for?", (_text(row, "option1"), _text(row, "option2")), answer)


def _help(row: Row) -> Question:
    """HELP (Yanaka et al. 2019), .tsv: does a sentence entail the next one?"""
    label = _text(row, "gold_label")
    if label not in HELP_LABELS:
        raise RowError(f"gold_label is {label[:40]!r}, not {' or '.join(HELP_LABELS)}")
    return entailment_question(_text(row, "ori_sentence"), _text(row, "new_sentence"), HELP_LABELS.index(label))


def _logiqa(row: Row) -> Question:
    """LogiQA 2.0 (Liu et al. 2023), JSON lines in .txt: passage, question, options; answer 0 to 3."""
    options = _texts(row, "options")
    return _choice(_joined(row, "text", "question"), options, _number(row, "answer", 0, len(options)))


def _own(row: Row) -> Question:
    """Concerto's own: `question`; optional `context`, which comes before it; optional `choices`, a list of texts.

    With choices `answer` is the index of the right one from 0, or its letter. Without choices it is an accepted text or
    number, or a list of them, and may be missing. A text with `####` is of GSM8K (Cobbe et al. 2021), which has the
    same fields: the answer is what stands behind, and the working before it is left out.
    """
    text = _joined(row, "context", "question")
    if row.get("choices") not in (None, []):
        choices = _texts(row, "choices")
        is_letter = isinstance(answer := row.get("answer"), str) and not answer.strip().isdecimal()
        index = _letter(row, "answer", len(choices)) if is_letter else _number(row, "answer", 0, len(choices))
        return _choice(text, choices, index)
    if row.get("answer") is None:
        return Question(text)
    accepted = _texts(row, "answer") if isinstance(row["answer"], list) else (_text_of(row["answer"], "answer"),)
    references = tuple(text.rpartition(BEHIND_WORKING)[2].strip() for text in accepted)
    if not all(map(normalise, references)):
        raise RowError("answer has nothing but punctuation")
    return Question(text, references=references)


FORMATS = (
    Format("MMLU", frozenset(MMLU_COLUMNS), _mmlu),
    Format("e-CARE", frozenset({"premise", "ask-for", "hypothesis1", "hypothesis2"}), _ecare),
    Format("SocialIQA", frozenset({"context", "question", "answerA", "answerB", "answerC"}), _socialiqa),
    Format("WinoGrande", frozenset({"sentence", "option1", "option2"}), _winogrande),
    Format("HELP", frozenset({"ori_sentence", "new_sentence", "gold_label"}), _help),
    Format("LogiQA 2.0", frozenset({"text", "question", "options"}), _logiqa),
    Format("Concerto", frozenset({"question"}), _own),
)
"""Most particular first."""


def entailment_question(premise: str, hypothesis: str, label: int) -> Question:
    """HELP's question; `label` is an index of `HELP_LABELS`."""
    text = f"Premise: {premise}\nHypothesis: {hypothesis}\nDoes the premise entail the hypothesis, or is it neutral?"
    return Question.multiple_choice(text, HELP_LABELS, label)


def format_of(row: Row) -> Format | None:
    """The first format all of whose fields the row has."""
    return next((known for known in FORMATS if known.fields <= row.keys()), None)


def _choice(text: str, choices: tuple[str, ...], answer: int) -> Question:
    if not 2 <= len(choices) <= len(LETTERS):
        raise RowError(f"{len(choices)} choices, not 2 to {len(LETTERS)}")
    return Question.multiple_choice(text, choices, answer)


def _joined(row: Row, before: str, field: str) -> str:
    """The field, after another one where that is not missing or empty."""
    return f"{_text(row, before)}\n{_text(row, field)}" if row.get(before) not in (None, "") else _text(row, field)


def _text(row: Row, field: str) -> str:
    return _text_of(row.get(field), field)


def _texts(row: Row, field: str) -> tuple[str, ...]:
    value = row.get(field)
    if not isinstance(value, list) or not value:
        raise RowError(f"{field} must be a list of texts")
    return tuple(_text_of(element, field) for element in value)


def _text_of(value: object, field: str) -> str:
    """A text that is not empty; numbers are texts too. Halves of surrogate pairs, which no file accepts, become "?"."""
    if value is None or value == "":
        raise RowError(f"{field} is missing or empty")
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise RowError(f"{field} must be text, not {type(value).__name__}")
    text = str(value).strip().encode(errors="replace").decode()
    if not text:
        raise RowError(f"{field} is missing or empty")
    return text


def _number(row: Row, field: str, first: int, count: int) -> int:
    """Index from 0 of a choice that is numbered from `first`."""
    text = _text(row, field)
    numbers = [str(first + index) for index in range(count)]
    if text not in numbers:
        raise RowError(f"{field} is {text[:40]!r}, not a number from {first} to {first + count - 1}")
    return numbers.index(text)


def _letter(row: Row, field: str, count: int) -> int:
    text = _text(row, field)
    letters = LETTERS[:count]
    if len(text) != 1 or text not in letters:
        raise RowError(f"{field} is {text[:40]!r}, not a letter from A to {letters[-1:]}")
    return letters.index(text)
