"""When a response is right.

1. The *final answer* of a response is the first line after its last "Answer:" (or "answer is"), without them what its
   last `\\boxed{}` holds, without those its last line that is not empty. A box in that line stands for what it holds.
   What comes before the last `</think>` is thought, and no part of it; nor is a thought that never ends.
2. An *open* question is answered right if the final answer equals one of the references, both normalised.
3. A *multiple-choice* question: the final answer names a choice by its letter, alone ("B", "(b).") or before the text
   ("B. Paris", "B - Paris"), and perhaps after "option" or "choice"; a letter that labels no choice is none. Otherwise
   it names the only choice that it equals, both normalised. The response is right if that is the right choice.

*Normalised* is as in SQuAD (Rajpurkar et al. 2016): lower case, no punctuation, no articles, single blanks. Unlike
there, numbers keep what makes them numbers: signs and separators before a digit stay ("-3", "1/2"; "3.5" is not "35"),
commas between thousands go; mathematical signs stay ("x+1" is not "x1").
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from envs.questions.question import LETTERS, Question

ARTICLES = {"a", "an", "the"}
NUMBER_SIGNS = frozenset(".,:-*/")
"""Punctuation that stays before a digit."""

MARKUP = " \t*_`"
"""Blanks, and what chat models put around an answer to emphasise it."""

_MARKER = re.compile(r"\banswer(?:\s+is\b|[\s*_]*[:：])[\s:：*_]*", re.IGNORECASE)
_BOX = re.compile(r"\\f?boxed\s*\{((?:[^{}]|\{[^{}]*\})*+)\}")
"""LaTeX, as models answer that are tuned on mathematics; what it holds may have braces of its own."""
_WORDS = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_LETTER = re.compile(r"[\W_]*(?:(?:option|choice)[\W_]+)?([A-Za-z])(?:[\W_]*|(?:[).:*_]+|\s[-–—])\s.+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was made of a response.

    Attributes:
        answer: the letter of the choice that it names, or its final answer, normalised; empty if it has none.
        right: whether that is right.
    """

    answer: str
    right: bool


def judge(question: Question, response: str) -> Verdict:
    """Score one response; any text is allowed."""
    final = final_answer(response)
    if question.choices:
        choice = named_choice(question.choices, final)
        return Verdict("" if choice is None else LETTERS[choice], choice is not None and choice == question.answer)
    answer = normalise(final)
    return Verdict(answer, bool(answer) and answer in map(normalise, question.references))


def final_answer(response: str) -> str:
    """`"2 + 2...\\nAnswer: 4\\nBye"`, `"So \\\\boxed{4}.\\nBye"` and `"2 + 2\\n4\\n"` → `"4"`; else empty."""
    *before, tail = _MARKER.split(response[_thought(response) :])
    lines = [bare for line in tail.splitlines() if (bare := line.strip(MARKUP))]
    if not lines:
        return ""
    boxes = _BOX.findall(lines[0] if before else tail)
    if boxes:
        return _WORDS.sub(r"\1", boxes[-1]).strip(MARKUP)
    return lines[0] if before else lines[-1]


def reasoning(response: str) -> str:
    """What a response says before its final answer, the marker included: `"2 + 2...\nAnswer: 4"` gives
    `"2 + 2...\nAnswer: "`. The end of a thought marks an answer too. Empty where nothing does."""
    thought = _thought(response)
    if markers := list(_MARKER.finditer(response, thought)):
        return response[: markers[-1].end()]
    answer = response[thought:].lstrip()
    return response[: len(response) - len(answer)] if thought and answer else ""


def _thought(response: str) -> int:
    """Characters of a response that it thinks, up to the last `</think>`; all where a thought never ends."""
    said = response.rpartition("</think>")[2]
    return len(response) if "<think>" in said else len(response) - len(said)


def named_choice(choices: tuple[str, ...], answer: str) -> int | None:
    """Index of the choice that a final answer names, None if it names none or several."""
    letter = _LETTER.fullmatch(answer)
    if letter and letter[1].upper() in LETTERS[: len(choices)]:
        return LETTERS.index(letter[1].upper())
    text = normalise(answer)
    equal = [index for index, choice in enumerate(choices) if text and normalise(choice) == text]
    return equal[0] if len(equal) == 1 else None


def normalise(text: str) -> str:
    """`"The  Eiffel Tower!"` → `"eiffel tower"`; `"$1,000.50"` → `"1000.50"`. Articles stay where nothing else is."""
    text = unicodedata.normalize("NFKC", text).replace("\N{MINUS SIGN}", "-").casefold()
    text = _THOUSANDS.sub("", text)
    kept = (sign for sign, after in zip(text, text[1:] + " ", strict=False) if _stays(sign, after))
    words = "".join(kept).split()
    return " ".join([word for word in words if word not in ARTICLES] or words)


def _stays(sign: str, after: str) -> bool:
    if sign in NUMBER_SIGNS and after.isdigit():
        return True
    category = unicodedata.category(sign)
    return not (category.startswith("P") or category == "Sc" or sign == "`")
