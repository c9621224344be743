"""The report over HTTP: what a browser asks for, and what it gets."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from cluster.reporting.report.server import Library, ReportServer
from tests.cluster.reporting.report_runs import SAID, record, write_part, write_run
from trajectories.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run")


@pytest.fixture
def server(folder: Path) -> Iterator[ReportServer]:
    with ReportServer(Library([folder]), 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(server: ReportServer, path: str, host: str = "localhost") -> tuple[int, str]:
    connection = HTTPConnection("127.0.0.1", server.server_address[1], timeout=20)
    connection.request("GET", path, headers={"Host": f"{host}:{server.server_address[1]}"})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def told(server: ReportServer, path: str) -> Any:
    status, text = ask(server, path)
    assert status == 200, text
    return json.loads(text)


def test_the_page_holds_the_run_and_no_episodes(server: ReportServer) -> None:
    status, page = ask(server, "/")
    assert status == 200 and page.lower().startswith("<!doctype html>") and '"served":true' in page
    assert SAID not in page


def test_episodes_are_listed_newest_first_by_filter_and_by_text(server: ReportServer) -> None:
    listed = told(server, "/episodes?run=run")
    assert listed["total"] == 12 and listed["next"] is None
    assert [row["id"] for row in listed["rows"]][:2] == ["grpo-5-1", "grpo-5-0"]
    assert told(server, "/episodes?run=run&outcome=solved&step=2-3")["total"] == 4
    found = told(server, "/episodes?run=run&text=mug%201%20from")
    assert len(found["rows"]) == found["searched"] == 12
    assert told(server, "/episodes?run=run&text=nowhere%20said")["rows"] == []


def test_one_episode_is_whole(server: ReportServer) -> None:
    episode = told(server, "/episode?run=run&id=grpo-3-0")
    assert episode["run"] == "run" and SAID in json.dumps(episode).replace('", "', "")


def test_a_run_under_way_shows_its_newest_steps_when_it_is_loaded_again(server: ReportServer, folder: Path) -> None:
    write_part(folder, 3)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(record(5)) + "\n")
    assert told(server, "/episodes?run=run")["total"] == 12
    ask(server, "/")
    assert told(server, "/episodes?run=run")["total"] == 16


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/nothing", 404, "nothing here"),
        ("/episodes?run=other", 400, "no run 'other'"),
        ("/episode?run=run&id=x", 400, "no episode 'x'"),
        ("/episodes?run=run&skip=-1", 400, "no number of rows"),
        ("/episodes?run=run&step=x", 400, "is no step"),
    ],
)
def test_what_is_not_there_is_named(server: ReportServer, path: str, status: int, said: str) -> None:
    got, text = ask(server, path)
    assert got == status and said in json.loads(text)["error"]


def test_a_page_from_elsewhere_gets_nothing(server: ReportServer) -> None:
    assert ask(server, "/episodes?run=run", host="evil.example")[0] == 403


def test_a_port_in_use_is_refused(server: ReportServer, folder: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be had .*name another --port"):
        ReportServer(Library([folder]), server.server_address[1])
