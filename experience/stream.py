"""A stream of questions through a learner, one after the other, that goes on where it was cut off.

Each finished question is a line of `questions.jsonl`, on disk before the next one begins; `run.json` says of which
stream. What a killed process had learned for a question that it had not yet answered, the memory knows
(`Memory.taught_by`): that question is answered, and nothing is learned twice.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envs.questions.question import Question
from envs.questions.scoring import judge
from experience.asking import Prompter, Spending
from experience.learning import Learner, Served
from trajectories.errors import RunError, UserError
from trajectories.files import read_lines, reading, storing, written_aside

MOST_FAILURES = 3
"""Questions in a row without an answer after which a stream ends: the endpoint writes nothing that can be used."""

COUNTERS = ("calls", "retries", "prompt_tokens", "completion_tokens")


@dataclass(frozen=True, slots=True)
class Asked:
    """A question of a stream and its id in it."""

    id: str
    question: Question


class Journal:
    """The finished questions of a run."""

    def __init__(self, folder: Path, run_id: str, records: list[dict[str, Any]]) -> None:
        self._path = folder / "questions.jsonl"
        self.run_id = run_id
        self.records = records

    @classmethod
    def open(cls, folder: Path, job: Mapping[str, Any]) -> Journal:
        """The journal of a run in `folder`, a new one where there is none.

        Raises UserError: the folder holds the run of another job, or it cannot be read.
        """
        file, lines = folder / "run.json", folder / "questions.jsonl"
        if not file.exists():
            with written_aside(file) as aside:
                aside.write_text(json.dumps({"run_id": uuid.uuid4().hex[:12], "job": dict(job)}), encoding="utf-8")
        with reading(file, f"remove {folder}, or name another --out."):
            run = json.loads(file.read_text(encoding="utf-8"))
        if differing := sorted(name for name in job if run["job"].get(name) != job[name]):
            raise UserError(
                f"{folder} holds another stream ({', '.join(differing)} differ): give the command as before, or name "
                "another --out"
            )
        records, torn = read_lines(lines) if lines.exists() else ([], False)
        if torn:  # a killed process was writing it: the question is asked again
            with written_aside(lines) as aside:
                aside.write_text("".join(map(_line, records)), encoding="utf-8")
        return cls(folder, run["run_id"], records)

    @property
    def finished(self) -> frozenset[str]:
        return frozenset(record["id"] for record in self.records)

    def add(self, record: dict[str, Any]) -> None:
        """Returns when the record is on disk."""
        with storing(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(_line(record))
            file.flush()
            os.fsync(file.fileno())
        self.records.append(record)

    def spending(self, budget: int | None) -> Spending:
        """What the finished questions have cost, as the beginning of what the others will."""
        spending = Spending(budget)
        for record in self.records:
            for step, counts in record["spent"].items():
                for name in COUNTERS:
                    getattr(spending, name)[step] += counts[name]
        return spending


async def run_stream(
    questions: Sequence[Asked],
    learner: Learner,
    prompter: Prompter,
    journal: Journal,
    finished: Callable[[Asked, dict[str, Any]], None] = lambda asked, record: None,
) -> None:
    """Serve every question that the journal does not have yet; `finished` hears of each.

    Raises RunError where `MOST_FAILURES` questions in a row got no answer, and what the model raises.
    """
    done, failures = journal.finished, 0
    for asked in questions:
        if asked.id in done:
            continue
        before, begun = prompter.spending.totals(), time.monotonic()
        served = await learner.serve(f"{journal.run_id}/{asked.id}", asked.question.prompt)
        spent = _difference(before, prompter.spending.totals())
        failures = 0 if served.answer else failures + 1
        if failures == MOST_FAILURES:
            raise RunError(
                f"{MOST_FAILURES} questions in a row got no answer, the last for: {served.failures[-1]}; choose a "
                "model that can be held to a JSON schema, and give the command again: it goes on"
            )
        if served.answer:
            record = _record(asked, served, spent, time.monotonic() - begun)
            journal.add(record)
            finished(asked, record)


def _record(asked: Asked, served: Served, spent: dict[str, dict[str, int]], seconds: float) -> dict[str, Any]:
    practice = served.practice
    return {
        "id": asked.id,
        "type": served.type_id,
        "answer": served.answer,
        "right": judge(asked.question, served.answer).right if asked.question.references else None,
        "practised": [example.verdict for example in practice.examples] if practice else None,
        "inconclusive": practice.inconclusive if practice else None,
        "memory_snapshot": served.snapshot,
        "memory_ids": list(served.item_ids),
        "failures": list(served.failures),
        "spent": spent,
        "seconds": round(seconds, 3),
    }


def _difference(before: Mapping[str, Mapping[str, int]], now: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    """What every step cost between two totals, without steps that cost nothing."""
    spent = {
        step: {name: counts[name] - before.get(step, {}).get(name, 0) for name in counts}
        for step, counts in now.items()
    }
    return {step: counts for step, counts in spent.items() if counts["calls"]}


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"
