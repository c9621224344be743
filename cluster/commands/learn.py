"""`concerto learn`: a stream of questions served and learned from, without a cluster."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from cluster.reporting.estimators import Rate, wilson_rate
from envs.questions.formats import RowError
from envs.questions.library import read_questions
from experience.asking import Prompter
from experience.learning import Ablation, Learner
from experience.memory import Memory
from experience.openai_chat import OpenAIChat
from experience.records import Reference
from experience.references import TextReferences
from experience.sentence_embedder import SentenceEmbedder
from experience.stream import Asked, Journal, run_stream
from experience.upkeep import Upkeep
from experience.utility import LEAST_PAIRS
from trajectories.errors import UserError
from trajectories.files import read_lines, written_aside


@dataclass(frozen=True, slots=True)
class LearnJob:
    """What a stream is made of; it cannot change when the stream goes on.

    Attributes:
        tasks: file of questions, in any format that the environment `questions` knows.
        memory: folder or URI of the memory.
        embedder: name of a sentence-embedding model.
        references: JSON lines with a `text` each, which practice makes questions from; None: the questions so far.
    """

    tasks: str
    model: str
    memory: str
    embedder: str
    references: str | None
    ablation: Ablation
    upkeep: Upkeep


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a stream: `success` over the answered questions that have a reference."""

    questions: int
    unanswered: int
    success: Rate
    tokens: dict[str, dict[str, int]]
    types: int
    items: int


def run_learn(job: LearnJob, base_url: str, budget: int | None, out: Path, console: Console) -> Result:
    """Serve the questions that `out` has not finished yet; writes `summary.json` there at the end.

    Raises UserError for wrong input, before anything is asked, and RunError where the stream cannot go on.
    """
    if 0 < job.upkeep.replay < LEAST_PAIRS:
        raise UserError(
            f"--replay {job.upkeep.replay} tells nothing: give {LEAST_PAIRS:.0f} questions or more, or leave it out"
        )
    questions = read_asked(Path(job.tasks))
    texts = _references(Path(job.references)) if job.references else None
    model = OpenAIChat(base_url, job.model)
    torch.set_num_threads(1)  # a sentence is soon read, unless two threads wait for each other on a busy core
    embedder = SentenceEmbedder.load(job.embedder)
    memory = Memory.open(job.memory, embedder)
    journal = Journal.open(out, asdict(job))
    if finished := journal.finished:
        console.print(f"{len(finished)} of {len(questions)} questions are finished; going on")
    references = TextReferences(embedder, texts or ())
    prompter = Prompter(model, journal.spending(budget))
    growing = _Growing(references, questions, finished) if texts is None else references
    learner = Learner(prompter, memory, growing, job.ablation, job.upkeep)

    def say(asked: Asked, record: dict[str, Any]) -> None:
        right = {True: "right", False: "wrong", None: "answered"}[record["right"]]
        practised = "" if record["practised"] is None else f", practised {len(record['practised'])}"
        console.print(f"  {asked.id}: {right}, {record['type'] or 'no type'}{practised}", highlight=False, markup=False)

    async def serve_all() -> None:
        try:
            await run_stream(questions, learner, prompter, journal, say)
        finally:
            await model.close()

    with _warnings_told(console):
        asyncio.run(serve_all())
    result = _result(questions, journal, memory, prompter)
    with written_aside(out / "summary.json") as aside:
        aside.write_text(json.dumps({**asdict(result), "success": result.success.model_dump()}), encoding="utf-8")
    return result


def token_table(result: Result) -> Table:
    """Calls and tokens of every step, and what a question cost."""
    table = Table(title="Tokens by step")
    for heading in ("step", "calls", "retries", "read", "written", "a question"):
        table.add_column(heading, justify="left" if heading == "step" else "right")
    answered = max(1, result.questions - result.unanswered)
    for step, counts in result.tokens.items():
        read, written = counts["prompt_tokens"], counts["completion_tokens"]
        numbers = (counts["calls"], counts["retries"], read, written, round((read + written) / answered))
        table.add_row(step, *(f"{number:,}" for number in numbers))
    return table


class _Growing:
    """The questions so far, the present one included, as texts to practise on: what comes later is not looked at."""

    def __init__(self, texts: TextReferences, questions: list[Asked], finished: frozenset[str]) -> None:
        self._texts = texts
        self._ids = {asked.question.prompt: asked.id for asked in questions}
        self._texts.add(Reference(asked.id, asked.question.prompt) for asked in questions if asked.id in finished)
        self._seen = set(finished)

    def nearest(self, text: str, count: int) -> list[Reference]:
        name = self._ids[text]
        if name not in self._seen:
            self._seen.add(name)
            self._texts.add([Reference(name, text)])
        return self._texts.nearest(text, count)


@contextmanager
def _warnings_told(console: Console) -> Iterator[None]:
    """What `experience` warns of, a line each at the terminal."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            console.print(f"  {record.getMessage()}", highlight=False, markup=False)

    handler, logger = Handler(logging.WARNING), logging.getLogger("experience")
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = True


def read_asked(path: Path) -> list[Asked]:
    """All questions of a file in their order. Raises UserError."""
    if not path.is_file():
        raise UserError(f"no questions at {path}: there is no such file; name a file of questions with --tasks")
    rows = read_questions(path)
    asked = [Asked(f"{path.name}/{number}", row) for number, row in rows if not isinstance(row, RowError)]
    if not asked:
        reason = f": row {rows[0][0]}: {rows[0][1]}" if rows else ", it is empty"
        raise UserError(f"not one question of {path} could be read{reason}; mend it, or name another --tasks")
    return asked


def _references(path: Path) -> list[Reference]:
    """Raises UserError."""
    if not path.is_file():
        raise UserError(f"no texts at {path}: there is no such file; name another with --references, or leave it out")
    rows, torn = read_lines(path)
    if torn:
        raise UserError(f"the last line of {path} is no JSON: mend it, or fetch the file again")
    texts = [row.get("text") if isinstance(row, dict) else None for row in rows]
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise UserError(f'{path} has rows without a text: give every line the form {{"text": "…"}}')
    return [Reference(f"{path.name}/{number}", str(text)) for number, text in enumerate(texts, start=1)]


def _result(questions: list[Asked], journal: Journal, memory: Memory, prompter: Prompter) -> Result:
    scored = [record["right"] for record in journal.records if record["right"] is not None]
    types = memory.types().values()
    return Result(
        len(questions),
        len(questions) - len(journal.records),
        wilson_rate(sum(scored), len(scored)),
        prompter.spending.totals(),
        len(types),
        sum(len(known.experience.items) for known in types),
    )
