"""A stream of questions in four arms: with an empty memory, by `concerto learn`, and by that without one of its steps.

The arms ask one endpoint, one after the other, and each has a memory of its own. The same command goes on where it was
cut off.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console

from cluster.commands.compare import INTERRUPTED, ComparisonInterrupted, run_process
from cluster.commands.learn import read_asked
from cluster.reporting.estimators import wilson_rate
from envs.questions.generator import generate
from envs.questions.question import Question
from envs.questions.scoring import judge
from experience.answering import answer
from experience.asking import Prompter, Spending, StepFailed
from experience.openai_chat import OpenAIChat
from experience.records import NOTHING
from trajectories.errors import RunError
from trajectories.files import reading, written_aside

NONE = "none"
"""The arm that answers with an empty memory."""
LEARNING = {"full": (), "no-transfer": ("--no-transfer",), "no-induction": ("--no-induction",)}
"""Arm → options of `concerto learn`."""
ARMS = (NONE, *LEARNING)

Summary = dict[str, Any]
"""What `concerto learn` writes of a stream, and `failed`, the steps that got no usable reply in all their attempts."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An OpenAI-compatible server, and the name of its model."""

    base_url: str
    model: str


def write_questions(file: Path, count: int) -> None:
    """The first of the generated test questions, kinds in turns, as `concerto learn` reads them."""
    rows = [_row(question) for _, _, question in islice(generate()["test"], count)]
    with written_aside(file) as aside:
        aside.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def run_streams(tasks: Path, endpoint: Endpoint, out: Path, console: Console) -> dict[str, Summary]:
    """The summary of every arm; what `out` has finished is not asked again.

    Raises:
        UserError: there are no such questions.
        RunError: an arm ended early; the message names its log.
        ComparisonInterrupted: the arm under way was interrupted.
    """
    questions = [asked.question for asked in read_asked(tasks)]
    plain = out / NONE / "summary.json"
    if not plain.exists():
        console.print(f"1 of {len(ARMS)}: {NONE}", highlight=False)
        answered = asyncio.run(_answer_all(questions, endpoint))
        with written_aside(plain) as aside:
            aside.write_text(json.dumps(answered), encoding="utf-8")
    for number, arm in enumerate(LEARNING, start=2):
        if not (out / arm / "summary.json").exists():
            console.print(f"{number} of {len(ARMS)}: {arm}", highlight=False)
            _learn(arm, tasks, endpoint, out)
    return {arm: _summary(out / arm) for arm in ARMS}


def _learn(arm: str, tasks: Path, endpoint: Endpoint, out: Path) -> None:
    """One arm as a process of its own. Raises RunError and ComparisonInterrupted."""
    folder, log = out / arm, out / f"{arm}.log"
    places = ["--tasks", str(tasks), "--memory", str(folder / "memory"), "--out", str(folder)]
    asking = ["--base-url", endpoint.base_url, "--model", endpoint.model]
    code = run_process([sys.executable, "-m", "cluster", "learn", *asking, *places, *LEARNING[arm]], log)
    if code == INTERRUPTED:
        raise ComparisonInterrupted(f"stopped in {arm}")
    if code:
        raise RunError(f"the arm {arm} ended with exit code {code}: see {log}, then give the command again")


async def _answer_all(questions: Sequence[Question], endpoint: Endpoint) -> Summary:
    """The arm without a memory, in the form of a stream's summary."""
    chat, spending = OpenAIChat(endpoint.base_url, endpoint.model), Spending()
    prompter = Prompter(chat, spending)
    verdicts: list[bool] = []
    failed = 0
    try:
        for question in questions:
            try:
                reply = await answer(prompter, question.prompt, NOTHING)
            except StepFailed:
                failed += 1
                continue
            if question.references:
                verdicts.append(judge(question, reply.answer).right)
    finally:
        await chat.close()
    success = wilson_rate(sum(verdicts), len(verdicts)).model_dump()
    return {"questions": len(questions), "success": success, "tokens": spending.totals(), "items": 0, "failed": failed}


def _summary(folder: Path) -> Summary:
    """What an arm has left. Raises UserError when it cannot be read."""
    file, records = folder / "summary.json", folder / "questions.jsonl"
    with reading(file, "remove its folder, and give the command again"):
        summary = json.loads(file.read_text(encoding="utf-8"))
    if not records.exists():
        return summary
    with reading(records, "remove its folder, and give the command again"):
        finished = [json.loads(line) for line in records.read_text(encoding="utf-8").splitlines()]
    return summary | {"failed": sum(len(record["failures"]) for record in finished)}


def _row(question: Question) -> dict[str, Any]:
    if question.choices:
        return {"question": question.text, "choices": list(question.choices), "answer": question.answer}
    return {"question": question.text, "answer": list(question.references)}
