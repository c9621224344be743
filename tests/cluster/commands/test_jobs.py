"""Jobs on a cluster, with a head that is made up; `test_job_submit` has a real one."""

import asyncio
import os
import socket
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from typing import Any

import pytest
from ray.job_submission import JobStatus

from cluster.commands import jobs
from trajectories.errors import RunError, UserError


class Head:
    """A client of a head whose connection is lost after each of these texts but the last."""

    def __init__(self, logs: Sequence[str], states: Sequence[JobStatus] = ()) -> None:
        self.logs, self.states, self.stopped = list(logs), list(states), 0

    def get_address(self) -> str:
        return "http://head:8265"

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        text = self.logs.pop(0) if self.logs else ""
        for start in range(0, len(text), 4):
            yield text[start : start + 4]
        if self.logs or not text:
            raise RuntimeError("the connection was closed unexpectedly")

    def get_job_status(self, job: str) -> JobStatus:
        return JobStatus.SUCCEEDED

    def get_job_info(self, job: str) -> Any:
        if job != "known":
            raise RuntimeError(f"Request failed with status code 404: Job {job} does not exist.")
        status = self.states[0] if len(self.states) == 1 else self.states.pop(0)
        return SimpleNamespace(status=status, message="Its words.\nMore.", driver_exit_code=3)

    def stop_job(self, job: str) -> None:
        self.stopped += 1


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(jobs, "POLL_S", 0.0)


def follow(head: Head, job: str = "known") -> str:
    written: list[str] = []
    jobs.follow(head, job, written.append)  # pyright: ignore[reportArgumentType]
    return "".join(written)


def test_a_log_is_printed_once_through_lost_connections():
    head = Head(["one two\n", "one two\nthr", "one", "one two\nthree\nfour\n"], [JobStatus.SUCCEEDED])
    assert follow(head) == "one two\nthree\nfour\n"


def test_a_head_that_is_lost_for_good_ends_the_following():
    with pytest.raises(RunError, match=r"the head at http://head:8265 is lost \(the connection was closed"):
        follow(Head([], [JobStatus.RUNNING]))


@pytest.mark.parametrize(("state", "code"), [(JobStatus.FAILED, 3), (JobStatus.STOPPED, 130)])
def test_a_job_that_did_not_succeed_gives_its_exit_code(state, code):
    with pytest.raises((jobs.JobFailed, jobs.JobStopped)) as end:
        follow(Head(["log\n"], [state]))
    assert end.value.exit_code == code and "job known" in str(end.value)


def test_a_stop_waits_for_the_end_and_asks_once():
    head = Head([], [JobStatus.RUNNING, JobStatus.RUNNING, JobStatus.RUNNING, JobStatus.STOPPED])
    said: list[str] = []
    assert jobs.stop(head, "known", said.append) == "STOPPED"  # pyright: ignore[reportArgumentType]
    assert head.stopped == 1 and "writes a checkpoint" in said[0]


def test_a_job_that_has_ended_is_not_stopped():
    head = Head([], [JobStatus.SUCCEEDED])
    assert jobs.stop(head, "known", print) == "SUCCEEDED" and not head.stopped  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("ask", [jobs.details, lambda head, job: jobs.stop(head, job, print), follow])
def test_an_unknown_job_is_wrong_input(ask):
    with pytest.raises(UserError, match="no job 'other' at http://head:8265"):
        ask(Head([], [JobStatus.RUNNING]), "other")


class Page(BaseHTTPRequestHandler):
    """A server that is no Ray."""

    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def other_server() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_a_server_that_is_no_ray_is_named(other_server):
    with pytest.raises(UserError, match=rf"no Ray dashboard at {other_server} \(HTTP 404\)"):
        jobs.connect(other_server)


def test_a_server_that_never_answers_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(jobs, "ANSWER_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(UserError, match=rf"no Ray dashboard at {address} \(timed out\)"):
            jobs.connect(address)


def test_a_job_has_its_command_its_folder_and_time_to_stop(tmp_path):
    asked: dict[str, Any] = {}
    answers = iter([RuntimeError("500: No available agent to submit job, please try again later"), "raysubmit_1"])

    def submit_job(**options: Any) -> str:
        asked.update(options)
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    client: Any = SimpleNamespace(get_address=lambda: "http://head:8265", submit_job=submit_job)
    assert jobs.submit(client, ["train", "--set", "a=b; rm -r x"], tmp_path, {"A": "1"}) == "raysubmit_1"
    assert asked["entrypoint"] == "python -m cluster train --set 'a=b; rm -r x'"
    environment = asked["runtime_env"]
    assert environment["working_dir"] == str(tmp_path) and {".git", "/runs", ".venv"} <= set(environment["excludes"])
    assert environment["env_vars"] == {"RAY_JOB_STOP_WAIT_TIME_S": "600", "A": "1"}


QUOTED = """Request failed with status code 500: Traceback (most recent call last):
  File "job_head.py", line 393, in upload_package
    data = await req.read()
{}
."""
"""How Ray's client tells what its dashboard failed with."""


@pytest.mark.parametrize(
    "text",
    [
        QUOTED.format("aiohttp.web_exceptions.HTTPRequestEntityTooLarge: Request Entity Too Large"),
        QUOTED.format("ValueError: Package size (600.00MiB) exceeds the maximum size of 512.00MiB. To exclude"),
        "Request failed with status code 413: <html>nginx</html>.",
    ],
)
def test_a_working_directory_that_is_too_large_is_told_with_what_to_do(tmp_path, text):
    def submit_job(**options: Any) -> str:
        raise RuntimeError(text)

    client: Any = SimpleNamespace(get_address=lambda: "http://head:8265", submit_job=submit_job)
    with pytest.raises(UserError, match=rf"--working-dir {tmp_path} is too large .*\.gitignore") as raised:
        jobs.submit(client, ["train"], tmp_path, {})
    assert "Traceback" not in str(raised.value)


def test_of_a_traceback_of_the_head_its_end_is_told():
    class Broken(Head):
        def get_job_info(self, job: str) -> Any:
            raise RuntimeError(QUOTED.format("KeyError: raysubmit_404"))

    with pytest.raises(UserError, match=r"^http://head:8265 refuses \(KeyError: raysubmit_404\)$"):
        jobs.details(Broken([]), "raysubmit_404")  # pyright: ignore[reportArgumentType]


def test_ctrl_c_stops_following_and_not_the_job():
    class Endless(Head):
        async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
            yield "log\n"
            os.kill(os.getpid(), 2)
            await asyncio.sleep(60)

    head = Endless([], [JobStatus.RUNNING])
    with pytest.raises(jobs.Detached, match="job known goes on: `concerto jobs logs known --address http://head:8265`"):
        follow(head)
    assert not head.stopped


class Taker(Head):
    """Takes jobs."""

    def submit_job(self, **job: Any) -> str:
        return "known"


@pytest.mark.parametrize("ignored", [".*", "*\n!*.py", "*\n!*/\n!*.py", "/*\n!/own.py"])
def test_a_folder_of_which_nothing_would_be_sent_is_refused(ignored: str, tmp_path, monkeypatch) -> None:
    (tmp_path / ".gitignore").write_text(ignored)
    (tmp_path / "own.py").touch()
    with pytest.raises(UserError, match=r"nothing of --working-dir .* would be sent.*leaves out the folder itself"):
        jobs.submit(Taker([]), ["train"], tmp_path, {})  # pyright: ignore[reportArgumentType]
    monkeypatch.setenv("RAY_RUNTIME_ENV_IGNORE_GITIGNORE", "1")
    assert jobs.submit(Taker([]), ["train"], tmp_path, {}) == "known"  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("ignored", [None, "", "runs/\n*.parquet\n.*/"])
def test_a_folder_of_which_something_is_sent_is_taken(ignored: str | None, tmp_path) -> None:
    if ignored is not None:
        (tmp_path / ".gitignore").write_text(ignored)
    assert jobs.submit(Taker([]), ["train"], tmp_path, {}) == "known"  # pyright: ignore[reportArgumentType]
