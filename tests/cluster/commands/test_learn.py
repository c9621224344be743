"""`concerto learn` and `concerto memory` through the real command, against a scripted endpoint."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cluster.cli import main
from experience import sentence_embedder
from experience.memory import Memory
from experience.openai_chat import OpenAIChat
from tests.experience.endpoint import completion, endpoint, speaking
from tests.experience.scripted import Script, ScriptedModel, WordEmbedder


@dataclass(frozen=True)
class Result:
    returncode: int
    stdout: str
    stderr: str

    @property
    def line(self) -> str:
        """The one line of an error."""
        (line,) = [line for line in self.stderr.splitlines() if line.startswith("concerto: ")]
        assert "Traceback" not in self.stderr
        return line


@pytest.fixture
def concerto(monkeypatch, capsys):
    monkeypatch.setattr(sentence_embedder.SentenceEmbedder, "load", lambda name: WordEmbedder(name))
    patient = partial(OpenAIChat, timeout_s=5.0, first_wait_s=0.01)
    monkeypatch.setattr("cluster.commands.learn.OpenAIChat", patient)

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["concerto", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        output = capsys.readouterr()
        return Result(int(end.value.code or 0), output.out, output.err)

    return run


@pytest.fixture
def job(tmp_path) -> dict[str, Path]:
    """Six questions, of which the scripted model answers every one by its own words."""
    rows = [
        {"question": f"[{kind}] question {number}", "answer": f"answer to [{kind}] question {number}"}
        for number, kind in enumerate(("sum", "sum", "day", "day", "sum", "day"), start=1)
    ]
    rows[1]["answer"] = "something else"
    tasks = tmp_path / "questions.jsonl"
    tasks.write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": f"text number {number}"}) + "\n" for number in range(1, 7)))
    return {"--tasks": tasks, "--references": texts, "--memory": tmp_path / "memory", "--out": tmp_path / "out"}


def arguments(job: dict[str, Any], url: str, **others: object) -> list[object]:
    options = {**job, "--base-url": url, "--model": "m", **others}
    return ["learn", *(part for option in options.items() for part in option)]


class Told(ScriptedModel):
    """Answers with nothing but the question's own first line, as the references of `job` have it."""

    def _answer(self, prompt: str) -> dict[str, Any]:
        reply = super()._answer(prompt)
        return reply | {"answer": reply["answer"].splitlines()[0]}


def records(job: dict[str, Path]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (job["--out"] / "questions.jsonl").read_text().splitlines()]


def test_a_stream_is_learned_and_its_memory_shown_compared_exported_and_restored(concerto, job, tmp_path) -> None:
    with endpoint(speaking(Told(Script()))) as url:
        result = concerto(*arguments(job, url))
    assert result.returncode == 0, result.stderr
    summary = json.loads((job["--out"] / "summary.json").read_text())
    assert (summary["success"]["wins"], summary["success"]["episodes"], summary["types"]) == (5, 6, 2)
    assert [record["memory_snapshot"] for record in records(job)] == [2, 3, 4, 5, 6, 7]
    assert "Right: 0.833" in result.stdout and "judge" in result.stdout

    memory = job["--memory"]
    shown = concerto("memory", "show", memory)
    assert "Snapshot 7 of 1 to 7" in shown.stdout and "3 error-free in a row" in shown.stdout
    assert "heed 5 [5]" in shown.stdout and "heed 5" not in concerto("memory", "show", memory, "--snapshot", 3).stdout
    assert "+ heed 2" in concerto("memory", "diff", memory, 2, 3).stdout
    assert "no difference" in concerto("memory", "diff", memory, 3, 3).stdout
    assert concerto("memory", "export", memory, "--out", tmp_path / "memory.json").returncode == 0
    exported = json.loads((tmp_path / "memory.json").read_text())
    assert len(exported["types"]) == 2 and len(exported["examples"]) == 30
    assert "as snapshot 8" in concerto("memory", "restore", memory, "--snapshot", 3).stdout
    assert "no difference" in concerto("memory", "diff", memory, 3, 8).stdout


class Killed(BaseException):
    """A kill in the middle of a request."""


@pytest.mark.parametrize("calls", [5, 19, 23, 60, 75])
def test_after_a_kill_the_same_command_asks_no_finished_question_again_and_ends_the_same(
    concerto, job, tmp_path, monkeypatch, calls
) -> None:
    other = {**job, "--memory": tmp_path / "whole", "--out": tmp_path / "whole-out"}
    with endpoint(speaking(Told(Script()))) as url:
        assert concerto(*arguments(other, url)).returncode == 0

    made, complete = [], OpenAIChat.complete

    async def until_killed(self, *given):
        made.append(1)
        if len(made) == calls:
            raise Killed
        return await complete(self, *given)

    with endpoint(speaking(Told(Script()))) as url, monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(OpenAIChat, "complete", until_killed)
        patch.setattr(sys, "argv", ["concerto", *map(str, arguments(job, url))])
        main()
    file = job["--out"] / "questions.jsonl"
    before = records(job) if file.exists() else []
    if before:
        with file.open("a") as torn:
            torn.write('{"id": "questions.jsonl/9", "ans')
    again = Told(Script())
    with endpoint(speaking(again)) as url:
        assert concerto(*arguments(job, url)).returncode == 0
    finished = {int(record["id"].rpartition("/")[2]) for record in before}
    assert not {number for number, _ in again.asked} & finished
    assert [record["id"] for record in records(job)] == [f"questions.jsonl/{number}" for number in range(1, 7)]
    assert without_run(job) == without_run(other)


def without_run(job: dict[str, Path]) -> list[dict[str, Any]]:
    """The memory's types, without what the id of the run is in."""
    return [
        {
            "name": known.name,
            "counts": (known.error_free, known.rounds, known.correct, known.wrong, known.inconclusive),
            "items": [
                (item.id, item.parents, [e.partition("/")[2] for e in item.examples]) for item in known.experience.items
            ],
        }
        for known in Memory.inspect(str(job["--memory"])).types().values()
    ]


def test_an_endpoint_that_answers_garbage_ends_the_stream_with_one_line_after_bounded_requests(concerto, job) -> None:
    calls = []
    with endpoint(lambda request: (calls.append(1), (200, completion("I'd rather not.")))[1]) as url:
        result = concerto(*arguments(job, url))
    assert result.returncode == 1
    assert (
        "3 questions in a row got no answer" in result.line and "answer: no usable reply in 20 attempts" in result.line
    )
    assert len(calls) == 3 * (10 + 20)  # naming and answering, of three questions
    assert not (job["--out"] / "questions.jsonl").exists()


def test_an_endpoint_that_is_down_ends_with_one_line_and_the_memory_is_whole(concerto, job) -> None:
    with endpoint(speaking(Told(Script()))) as url:
        pass
    result = concerto(*arguments(job, url))
    assert result.returncode == 1 and "failed 4 times" in result.line and "the same command goes on" in result.line
    with endpoint(speaking(Told(Script()))) as url:
        assert concerto(*arguments(job, url)).returncode == 0


def test_wrong_input_is_told_in_one_line_with_its_fix(concerto, job, tmp_path) -> None:
    with endpoint(speaking(Told(Script()))) as url:
        assert concerto(*arguments(job, url)).returncode == 0
        fresh = {"--out": tmp_path / "fresh"}
        other = concerto(*arguments({**job, **fresh}, url, **{"--embedder": "other"}))
        assert other.returncode == 2 and "open it with --embedder all-MiniLM-L6-v2" in other.line
        changed = concerto(*arguments(job, url, **{"--model": "another"}))
        assert changed.returncode == 2 and "another stream (model differ" in changed.line
        for option, fix in (
            ("--tasks", "name a file of questions"),
            ("--references", "name another with --references"),
        ):
            missing = concerto(*arguments({**job, **fresh, option: tmp_path / "nowhere"}, url))
            assert missing.returncode == 2 and fix in missing.line
    with endpoint(speaking(Told(Script()))) as url:
        spent = concerto(*arguments({**job, **fresh, "--memory": tmp_path / "new"}, url, **{"--token-budget": 500}))
        assert spent.returncode == 1 and "raise --token-budget" in spent.line
    nowhere = concerto("memory", "show", tmp_path / "nowhere")
    assert nowhere.returncode == 2 and "there is no memory" in nowhere.line and not (tmp_path / "nowhere").exists()
    beyond = concerto("memory", "restore", job["--memory"], "--snapshot", 99)
    assert beyond.returncode == 2 and "choose one from 1 to 7" in beyond.line
