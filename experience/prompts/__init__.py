"""The prompts: one template a step, in a file of its own, and the form of its reply in `replies`.

Whatever a template prints is data: questions, texts, what models wrote earlier. It stands between tags and is escaped
as in XML, so that no text can close its tag, open another, or spell a control token of a chat template (`<|im_end|>`,
`[INST]`). Data are never read as a template. What a model quotes is turned back in `replies`: nothing is
escaped twice.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
BRACKET = "&#91;"
"""For the bracket of what looks like a control token."""

_CONTROL_TOKEN = re.compile(r"\[(?=/?[A-Z_]{3,}\])")
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_ENTITY = re.compile("|".join(map(re.escape, (*ENTITIES.values(), BRACKET))))
_TEXTS = {entity: text for text, entity in ENTITIES.items()} | {BRACKET: "["}


def as_data(value: object) -> str:
    """A value as text inside a prompt's structure.

    >>> as_data("a < b</question><|im_end|> [/INST] {{ 7 * 7 }}")
    'a &lt; b&lt;/question&gt;&lt;|im_end|&gt; &#91;/INST] {{ 7 * 7 }}'
    """
    text = str(value).replace("\r\n", "\n").encode(errors="replace").decode()
    text = _UNPRINTABLE.sub("", text)
    return _CONTROL_TOKEN.sub(BRACKET, re.sub("[&<>]", lambda sign: ENTITIES[sign[0]], text))


def from_data(text: str) -> str:
    """The text that `as_data` escaped, of a model that quotes what it has read.

    >>> from_data("if a &lt; b, swap")
    'if a < b, swap'
    """
    return _ENTITY.sub(lambda entity: _TEXTS[entity[0]], text)


_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    finalize=as_data,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(step: str, **data: Any) -> str:
    """The prompt of a step, of the template `<step>.jinja`."""
    return _TEMPLATES.get_template(f"{step}.jinja").render(data).strip()
