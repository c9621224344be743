"""Official games are copied after all of them were checked, and downloads go on where they stopped."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from envs.alfworld.install import download, install, installed_folder
from envs.alfworld.library import GameLibrary
from envs.download import data_folder
from tests.envs.alfworld.test_games import TASK, write_games
from trajectories.errors import UserError

CONTENT = bytes(range(256)) * 40


@pytest.fixture(autouse=True)
def own_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONCERTO_DATA", str(tmp_path / "installed"))


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """A server that honours ranges: (url, the ranges asked for)."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.headers.get("Range", ""))
            start = int(asked[-1].removeprefix("bytes=").removesuffix("-") or 0)
            self.send_response(416 if start >= len(CONTENT) else 206 if start else 200)
            self.send_header("Content-Length", str(max(0, len(CONTENT) - start)))
            self.end_headers()
            self.wfile.write(CONTENT[start:])

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}/games.zip", asked
        http.shutdown()


def test_installed_games_are_found_without_a_path(tmp_path: Path) -> None:
    assert installed_folder() is None
    report = install(write_games(tmp_path / "data", TASK))
    assert report.games == {"train": 1} and report.folder == data_folder("alfworld") == installed_folder()
    assert GameLibrary.open().read(TASK).domain == "d"


def test_a_second_install_replaces_the_first(tmp_path: Path) -> None:
    install(write_games(tmp_path / "one", TASK))
    install(write_games(tmp_path / "two", TASK.replace("train", "valid_seen")))
    assert installed_folder() is not None and GameLibrary.open(installed_folder()).task_ids("valid_seen")
    with pytest.raises(UserError, match="no games of split 'train'"):
        GameLibrary.open().task_ids("train")


def test_a_damaged_game_changes_nothing(tmp_path: Path) -> None:
    install(write_games(tmp_path / "one", TASK))
    bad = write_games(tmp_path / "two", TASK)
    (bad / "json_2.1.1" / TASK / "game.tw-pddl").write_text("{")
    with pytest.raises(UserError, match="no valid game file"):
        install(bad)
    assert GameLibrary.open().read(TASK).domain == "d"


def test_a_download_goes_on_where_it_stopped(tmp_path: Path, server: tuple[str, list[str]]) -> None:
    url, asked = server
    (tmp_path / "games.zip.part").write_bytes(CONTENT[:1000])
    seen: list[tuple[int, int]] = []
    archive = download(tmp_path, url, lambda done, total: seen.append((done, total)))
    assert archive.read_bytes() == CONTENT and asked == ["bytes=1000-"] and seen[-1] == (len(CONTENT),) * 2
    assert download(tmp_path, url) == archive and len(asked) == 1


def test_a_complete_part_is_not_fetched_again(tmp_path: Path, server: tuple[str, list[str]]) -> None:
    (tmp_path / "games.zip.part").write_bytes(CONTENT)
    assert download(tmp_path, server[0]).read_bytes() == CONTENT


def test_without_a_network_the_message_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        download(tmp_path, "http://127.0.0.1:1/games.zip")
    assert "--from FILE" in str(error.value) and "\n" not in str(error.value)
