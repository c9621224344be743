"""What does experience do for a stream of questions? Four arms over the same generated questions, one endpoint.

    python -m benchmarks.smollm2 DIR
    python -m vllm.entrypoints.openai.api_server --model DIR --served-model-name smollm2 --max-model-len 8192 \
        --structured-outputs-config '{"backend": "xgrammar", "disable_any_whitespace": true}'
    python -m benchmarks.streams --base-url http://localhost:8000/v1 --model smollm2 --out runs/streams [--questions 12]

    none           every question is answered with an empty memory
    full           `concerto learn`
    no-transfer    `concerto learn --no-transfer`
    no-induction   `concerto learn --no-induction`

The arms run side by side, each with a memory of its own; the same command goes on where it was cut off. `refused` are
replies that did not fit their form, `failed` steps that got no usable reply in all their attempts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cluster.reporting.estimators import Rate, wilson_rate
from envs.questions.generator import generate
from envs.questions.question import Question
from envs.questions.scoring import judge
from experience.answering import answer
from experience.asking import Prompter, Spending, StepFailed
from experience.openai_chat import OpenAIChat
from experience.records import NOTHING
from trajectories.files import written_aside

ARMS = {"full": (), "no-transfer": ("--no-transfer",), "no-induction": ("--no-induction",)}
"""Arm → options of `concerto learn`."""


def write_questions(file: Path, count: int) -> list[Question]:
    """The first of the generated test questions, kinds in turns, as `concerto learn` reads them."""
    questions = [question for _, _, question in islice(generate()["test"], count)]
    rows = [_row(question) for question in questions]
    with written_aside(file) as aside:
        aside.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return questions


def _row(question: Question) -> dict[str, Any]:
    if question.choices:
        return {"question": question.text, "choices": list(question.choices), "answer": question.answer}
    return {"question": question.text, "answer": list(question.references)}


async def plain(questions: list[Question], base_url: str, model: str) -> dict[str, Any]:
    """The arm without a memory, in the form of a stream's summary."""
    chat, spending = OpenAIChat(base_url, model), Spending()
    prompter = Prompter(chat, spending)
    right = failed = 0
    for question in questions:
        try:
            reply = await answer(prompter, question.prompt, NOTHING)
            right += judge(question, reply.answer).right
        except StepFailed:
            failed += 1
    await chat.close()
    success = wilson_rate(right, len(questions) - failed).model_dump()
    return {"success": success, "tokens": spending.totals(), "items": 0, "failed": failed}


def learned(folder: Path) -> dict[str, Any]:
    """The summary of a stream that `concerto learn` has finished."""
    records = [json.loads(line) for line in (folder / "questions.jsonl").read_text().splitlines()]
    failed = sum(len(record["failures"]) for record in records)
    return json.loads((folder / "summary.json").read_text()) | {"failed": failed}


def table(summaries: dict[str, dict[str, Any]], questions: int) -> Table:
    shown = Table(title=f"{questions} questions an arm")
    for heading in ("arm", "right [95 %]", "tokens a question", "replies", "refused", "failed", "items"):
        shown.add_column(heading, justify="left" if heading == "arm" else "right")
    for arm, summary in summaries.items():
        counts = summary["tokens"].values()
        tokens = sum(step["prompt_tokens"] + step["completion_tokens"] for step in counts)
        calls, retries = (sum(step[name] for step in counts) for name in ("calls", "retries"))
        numbers = (round(tokens / questions), calls, retries, summary["failed"], summary["items"])
        success = Rate.model_validate(summary["success"])
        shown.add_row(arm, f"{success} of {success.episodes}", *(f"{number:,}" for number in numbers))
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--questions", type=int, default=12)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "tasks.jsonl"
    questions = write_questions(file, options.questions)
    endpoint = ["--base-url", options.base_url, "--model", options.model]
    running = []
    for arm, switches in ARMS.items():
        places = ["--tasks", str(file), "--memory", str(options.out / arm / "memory"), "--out", str(options.out / arm)]
        command = [sys.executable, "-m", "cluster", "learn", *endpoint, *places, *switches]
        (options.out / arm).mkdir(exist_ok=True)
        running.append(subprocess.Popen(command, stdout=(options.out / f"{arm}.log").open("w")))
    summaries = {"none": asyncio.run(plain(questions, options.base_url, options.model))}
    for arm, process in zip(ARMS, running, strict=True):
        if process.wait():
            sys.exit(f"the arm {arm} ended with code {process.returncode}: see {options.out / arm}.log")
        summaries[arm] = learned(options.out / arm)
    with written_aside(options.out / "streams.json") as aside:
        aside.write_text(json.dumps(summaries, indent=1) + "\n")
    Console(width=110).print(table(summaries, len(questions)))


if __name__ == "__main__":
    main()
