"""What an agent answers, and which action is in it. One format a model is told of, one function that reads it.

| format | an answer | the action |
|---|---|---|
| `action` | `go to desk 1` | its only line, or what the last `Action: …` says |
| `react` | `Thought: …` and `Action: …` (arXiv 2210.03629) | what the last `Action: …` says, or the next line |
| `tagged` | `<think>…</think><action>…</action>` (arXiv 2505.10978) | what its last pair of action tags holds |

Whatever comes before the last `</think>` is reasoning, and so is what control tokens of another kind set apart from the
last that is said (`ChatTokenizer.answer`). Where a chat template has opened it in the prompt, answers close it.
Fences of code, quotes, emphasis and a full stop around an action are not part of it. What follows a line `Observation:`
in `react` was made up by the model and is not read. Everything else is a `Violation`: it earns no `format`, and the
environment gets `NO_ACTION`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

FormatName = Literal["", "action", "react", "tagged"]
"""A format; empty: the model is told of none, and its whole answer is the action."""

NO_ACTION = ""
"""What an environment gets for a violation: an action that changes nothing, and that it answers in its own words."""

_OPENING = "<think>"
TAGS = (_OPENING, "</think>", "<action>", "</action>")
"""What the formats read themselves."""
_WRAPPING = " \t\r\f\v\u00a0`*\"'“”>"
"""What models put around an action."""
_FENCE = re.compile(r"\s*```\w*\s*")
# Possessive, so that a long run of blanks is gone over once, not once a blank.
_LABEL = re.compile(r"(?:^|(?<=</think>))[ \t>*_#]*+action[ \t]*+\d*+[ \t*_]*+:[*_]*+", re.IGNORECASE | re.MULTILINE)
_OBSERVATION = re.compile(
    r"(?:^|(?<=</think>))[ \t>*_#]*+observation[ \t]*+\d*+[ \t*_]*+:", re.IGNORECASE | re.MULTILINE
)
_THINKS, _THOUGHT = re.compile("<think>", re.IGNORECASE), re.compile("</think>", re.IGNORECASE)
_ACTS = re.compile("<action>", re.IGNORECASE)
_TAGS = re.compile(r"<action>((?:(?!<action>).)*?)</action>", re.IGNORECASE | re.DOTALL)
_SEARCH = re.compile(r"search\s*\[(.+)\]", re.IGNORECASE)
_END_OF_ACTION = re.compile(r"[\r\n]|</action>", re.IGNORECASE)


class Violation(StrEnum):
    """Why there is no action in an answer."""

    EMPTY = "empty"
    """Nothing is said, or nothing where the action belongs."""
    MISSING_ACTION = "missing_action"
    """Something is said, but the format's mark of an action is not there."""
    UNCLOSED_TAG = "unclosed_tag"
    """Reasoning or an action was opened and never closed."""
    SEVERAL_LINES = "several_lines"
    """More than one line where one action belongs."""
    CUT_OFF = "cut_off"
    """The response reached its budget before its action was complete: half an action may be another action."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An action, or why there is none.

    Attributes:
        action: what the environment gets; `NO_ACTION` with a violation.
        span: where the action lies in the response, in characters [start, end); (0, 0) where no format is set.
    """

    action: str = NO_ACTION
    span: tuple[int, int] = (0, 0)
    violation: Violation | None = None


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    """A way to answer: `read` finds the action in a response, `write` says (action, thought) in the format."""

    read: Callable[[str], Answer]
    write: Callable[[str, str], str]


def opens_reasoning(prompt: str) -> bool:
    """Whether a prompt ends where the model is to reason, as those of DeepSeek-R1's and QwQ's chat templates do."""
    return prompt.rstrip().endswith(_OPENING)


def closes_reasoning(response: str) -> bool:
    """Whether a response closes the reasoning that its prompt has opened."""
    return _THOUGHT.search(response) is not None


def read_answer(format: str, response: str, finished: bool = True, opened: bool = False) -> Answer:
    """The action in a response, by the rule of its format, one of `FORMATS`.

    >>> read_answer("react", "Thought: A desk.\\nAction: go to desk 1.").action
    'go to desk 1'

    Args:
        finished: the model ended the response itself. Of one that its budget cut off only a complete action counts.
        opened: the prompt has opened the reasoning. Nothing counts before that is closed.
    """
    reasons = opened and not closes_reasoning(response)
    answer = Answer(violation=Violation.UNCLOSED_TAG) if reasons else FORMATS[format].read(response)
    if not finished and (answer.violation or not _END_OF_ACTION.search(response, answer.span[1])):
        return Answer(violation=Violation.CUT_OFF)
    return answer


def write_answer(
    format: FormatName, action: str, thought: str = "", opened: bool = False, quote: Callable[[str], str] = str
) -> str:
    """What a model should say to do this; without a thought it gives the action alone.

    A thought that would not be read as one is left out: it may hold a tag or a line that starts another part.

    Args:
        opened: the prompt has opened the reasoning, and the answer closes it.
        quote: what becomes of action and thought, and not of the format's own marks.
    """
    if not format:
        return quote(action)
    write = FORMATS[format].write
    if thought and read_answer(format, write(action, thought)).action != read_answer(format, write(action, "")).action:
        thought = ""
    answer = write(quote(action), quote(thought))
    if not opened:
        return answer
    return answer.removeprefix(_OPENING) if format == "tagged" and thought else f"</think>\n{answer}"


def as_admissible(action: str, admissible: Collection[str], aliases: Mapping[str, str], searches: bool = False) -> str:
    """The admissible action that is meant, where exactly one differs from `action` in nothing but capitals and blanks,
    or from what an alias makes of it; else the action as it is. One whose words are the same goes before the others.

    >>> as_admissible("Put mug 1 in shelf 2", ["move mug 1 to shelf 2"], {r"put (.+) in (.+)": r"move \\1 to \\2"})
    'move mug 1 to shelf 2'

    Args:
        aliases: regular expressions of whole actions, and what they stand for.
        searches: `search[words]` is admissible too, with any words; they stay as they are.
    """
    if searches and (search := _SEARCH.fullmatch(action)):
        return f"search[{search[1]}]"
    said = _words(action)
    renamed = [match.expand(new) for old, new in aliases.items() if (match := re.fullmatch(old, said))]
    for bare in (_words, _letters):
        known: dict[str, list[str]] = {}
        for one in admissible:
            known.setdefault(bare(one), []).append(one)
        for words in (said, *renamed):
            if len(meant := known.get(bare(words), [])) == 1:
                return meant[0]
    return action


def _read_action(response: str) -> Answer:
    start = _behind_reasoning(response)
    if start is None:
        return Answer(violation=Violation.UNCLOSED_TAG)
    labels = list(_LABEL.finditer(response, start))
    return _first_line(response, labels[-1].end(), len(response)) if labels else _only_line(response, start)


def _read_react(response: str) -> Answer:
    start = _behind_reasoning(response)
    if start is None:
        return Answer(violation=Violation.UNCLOSED_TAG)
    made_up = _OBSERVATION.search(response, start)
    end = made_up.start() if made_up else len(response)
    labels = list(_LABEL.finditer(response, start, end))
    if not labels:
        return Answer(violation=Violation.MISSING_ACTION if response[start:end].strip() else Violation.EMPTY)
    return _first_line(response, labels[-1].end(), end)


def _read_tagged(response: str) -> Answer:
    start = _behind_reasoning(response)
    if start is None:
        return Answer(violation=Violation.UNCLOSED_TAG)
    if pairs := list(_TAGS.finditer(response, start)):
        return _only_line(response, *pairs[-1].span(1))
    if _ACTS.search(response, start):
        return Answer(violation=Violation.UNCLOSED_TAG)
    return Answer(violation=Violation.MISSING_ACTION if response[start:].strip() else Violation.EMPTY)


def _write_react(action: str, thought: str) -> str:
    return f"Thought: {thought}\nAction: {action}" if thought else f"Action: {action}"


def _write_tagged(action: str, thought: str) -> str:
    return f"<think>{thought}</think>\n<action>{action}</action>" if thought else f"<action>{action}</action>"


FORMATS: dict[str, AnswerFormat] = {
    "action": AnswerFormat(_read_action, lambda action, thought: action),
    "react": AnswerFormat(_read_react, _write_react),
    "tagged": AnswerFormat(_read_tagged, _write_tagged),
}


def _behind_reasoning(response: str) -> int | None:
    """Where the reasoning ends; None where it never does."""
    closed = list(_THOUGHT.finditer(response))
    start = closed[-1].end() if closed else 0
    return None if _THINKS.search(response, start) else start


def _lines(response: str, start: int, end: int) -> list[tuple[int, int]]:
    """Spans of the lines that say something, without what is put around an action."""
    lines = (match.span() for match in re.compile(r"[^\r\n]+").finditer(response, start, end))
    bare = (_trimmed(response, *line) for line in lines if not _FENCE.fullmatch(response, *line))
    return [(first, last) for first, last in bare if first < last]


def _only_line(response: str, start: int, end: int | None = None) -> Answer:
    lines = _lines(response, start, len(response) if end is None else end)
    if len(lines) != 1:
        return Answer(violation=Violation.SEVERAL_LINES if lines else Violation.EMPTY)
    return Answer(response[slice(*lines[0])], lines[0])


def _first_line(response: str, start: int, end: int) -> Answer:
    lines = _lines(response, start, end)
    return Answer(response[slice(*lines[0])], lines[0]) if lines else Answer(violation=Violation.EMPTY)


def _trimmed(response: str, start: int, end: int) -> tuple[int, int]:
    while start < end and (response[start] in _WRAPPING or response[start].isspace()):
        start += 1
    while start < end and (response[end - 1] in _WRAPPING + "." or response[end - 1].isspace()):
        end -= 1
    return start, end


def _words(action: str) -> str:
    return " ".join(action.casefold().split())


def _letters(action: str) -> str:
    return "".join(action.casefold().split())
