"""What a benchmark of the suite found, in one shape: its question and its figures, each with a unit and a goal if any.

    {"benchmark": "webshop", "question": "…", "figures": [{"name": "…", "value": 1.5, "unit": "MB", "at_most": 10.0}]}

Beside these a file may hold what only one benchmark has, such as the rows that its figures are taken from.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trajectories.files import written_aside

QUESTIONS = {
    "startup": "How long until the first step?",
    "alfworld_engine": "How fast is the native ALFWorld engine against stock?",
    "webshop": "How fast and light is WebShop?",
    "asynchrony": "What is playing while the learner steps worth, and what does the coordinator cost?",
    "probe": "What does the gradient probe cost?",
    "conductor": "What does the Conductor cost?",
    "publication": "How long do weights travel?",
    "learner": "How fast is the learner's step against a plain loop?",
    "against_trl": "How fast is the learner's step against TRL's?",
    "rollouts": "What are independent episodes worth against lockstep?",
}
"""Of each benchmark of the suite, in its order."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One number.

    Attributes:
        unit: a ratio's is `times` and what it is held against.
        at_least: the goal of a figure that should be large.
        at_most: the goal of one that should be small.
    """

    name: str
    value: float
    unit: str
    at_least: float | None = None
    at_most: float | None = None

    @property
    def shown(self) -> str:
        """Value and unit.

        >>> Figure("steps", 5750.2, "a CPU second").shown, Figure("memory", 5.6789, "MB").shown
        ('5,750 a CPU second', '5.68 MB')
        """
        return f"{_number(self.value)} {self.unit}"

    @property
    def goal(self) -> str:
        """The goal, and whether it was reached; empty where there is none.

        >>> Figure("ratio", 1.27, "times before", at_least=2.5).goal
        'at least 2.5: missed'
        """
        for words, bound, sign in (("at least", self.at_least, 1), ("at most", self.at_most, -1)):
            if bound is not None:
                return f"{words} {_number(bound)}: {'reached' if sign * self.value >= sign * bound else 'missed'}"
        return ""


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def write_figures(file: Path | None, benchmark: str, figures: Sequence[Figure], **details: Any) -> None:
    """Replace `file` by the figures of one of the `QUESTIONS`, and details of its own; without a file do nothing."""
    if file is None:
        return
    found = [{name: value for name, value in asdict(figure).items() if value is not None} for figure in figures]
    content = {"benchmark": benchmark, "question": QUESTIONS[benchmark], "figures": found, **details}
    with written_aside(file) as aside:
        aside.write_text(json.dumps(content, indent=1) + "\n")
