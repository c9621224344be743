"""Downloads: what arrives must be the file that was asked for, or nothing is left under its name."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from envs.download import data_folder, download_file
from trajectories.errors import UserError

CONTENT = b"products " * 500
GOOD = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server() -> Iterator[str]:
    """Serves `CONTENT` under every path, and ignores ranges; below /page as a web page."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            kind = "text/html; charset=utf-8" if self.path.startswith("/page") else "application/octet-stream"
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def test_a_file_with_the_right_hash_is_kept(tmp_path: Path, server: str) -> None:
    download_file(f"{server}/file", tmp_path / "deep" / "file", instead="-", sha256=GOOD)
    assert (tmp_path / "deep" / "file").read_bytes() == CONTENT


def test_a_file_with_another_hash_is_removed(tmp_path: Path, server: str) -> None:
    with pytest.raises(UserError, match=r"cannot download file .*its SHA-256 is .*do this instead"):
        download_file(f"{server}/file", tmp_path / "file", instead="do this instead", sha256="0" * 64)
    assert not list(tmp_path.iterdir())


def test_a_web_page_is_not_the_file(tmp_path: Path, server: str) -> None:
    with pytest.raises(UserError, match="the server sent a web page"):
        download_file(f"{server}/page", tmp_path / "file", instead="-")
    assert not list(tmp_path.iterdir())


def test_a_server_without_ranges_sends_all_again(tmp_path: Path, server: str) -> None:
    (tmp_path / "file.part").write_bytes(b"half of something")
    download_file(f"{server}/file", tmp_path / "file", instead="-", sha256=GOOD)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_the_data_folder_is_the_users_unless_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONCERTO_DATA", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", "/home/someone/data")
    assert data_folder("webshop") == Path("/home/someone/data/concerto/webshop")
    monkeypatch.setenv("CONCERTO_DATA", "/elsewhere")
    assert data_folder("alfworld") == Path("/elsewhere/alfworld")
