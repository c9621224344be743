"""Installing the original's files, and fetching them from a server on this machine that breaks off now and then."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from envs.webshop import install as install_module
from envs.webshop import open_catalogue
from envs.webshop.install import OFFICIAL_FILES, download, install
from tests.data import require
from tests.envs.webshop.conftest import WEBSHOP_DATA
from tests.envs.webshop.rows import annotation, product_row, write_data
from trajectories.errors import UserError

CONTENT = json.dumps([product_row()]).encode()


class Server(BaseHTTPRequestHandler):
    """Sends at most 100 bytes of what is left, though it promises all of it."""

    requests: list[str | None] = []  # noqa: RUF012

    def do_GET(self) -> None:
        span = self.headers.get("Range")
        self.requests.append(span)
        start = int(span.removeprefix("bytes=").removesuffix("-")) if span else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if span else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        self.wfile.write(CONTENT[start : start + 100])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    Server.requests.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        monkeypatch.setattr(install_module, "DOWNLOAD_URL", f"http://127.0.0.1:{http.server_port}/{{}}")
        monkeypatch.setattr(install_module, "SHA256", {"items_ins_v2_1000.json": hashlib.sha256(CONTENT).hexdigest()})
        yield
        http.shutdown()


def test_an_interrupted_download_goes_on_where_it_stopped(tmp_path: Path, server: None) -> None:
    seen: list[tuple[str, int, int]] = []
    attempts = 0
    folder = None
    while folder is None and attempts < 50:
        attempts += 1
        try:
            folder = download("1000", tmp_path, progress=lambda *state: seen.append(state))
        except UserError as error:
            assert "run the same command to go on" in str(error)
    assert folder is not None
    assert attempts > 3
    assert sorted(path.name for path in folder.iterdir()) == sorted(OFFICIAL_FILES["1000"])
    assert all(path.read_bytes() == CONTENT for path in folder.iterdir())
    assert seen[-1][1:] == (len(CONTENT), len(CONTENT))
    asked = len(Server.requests)
    download("1000", tmp_path)
    assert len(Server.requests) == asked


def test_a_published_file_that_has_changed_is_refused(
    tmp_path: Path, server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install_module, "SHA256", {"items_shuffle_1000.json": "0" * 64})
    (tmp_path / "download-1000").mkdir()
    (tmp_path / "download-1000" / "items_shuffle_1000.json.part").write_bytes(CONTENT)
    with pytest.raises(UserError, match=r"items_shuffle_1000\.json .*SHA-256"):
        download("1000", tmp_path)
    assert not list((tmp_path / "download-1000").iterdir())


def test_no_network_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install_module, "DOWNLOAD_URL", "http://127.0.0.1:9/{}")
    with pytest.raises(UserError, match=r"cannot download .*concerto data webshop --from DIR"):
        download("full", tmp_path)


def test_installed_files_become_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONCERTO_DATA", str(tmp_path / "data"))
    assert len(open_catalogue()) == 1000
    source = write_data(tmp_path / "source", [product_row(), {}], {"B000000001": annotation()})
    report = install(source)
    assert (report.products, report.goals, report.refused, report.canonical) == (1, 2, 1, False)
    assert len(open_catalogue()) == 1
    assert len(open_catalogue("generated")) == 1000


def test_files_that_cannot_be_read_replace_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    install(write_data(tmp_path / "good", [product_row()], {}), folder)
    with pytest.raises(UserError, match="not one product"):
        install(write_data(tmp_path / "bad", [{}], {}), folder)
    assert [path.name for path in folder.iterdir()] == ["files"]
    assert len(open_catalogue(folder / "files")) == 1


def test_the_originals_thousand_products_are_recognised(tmp_path: Path) -> None:
    report = install(require(WEBSHOP_DATA), tmp_path)
    assert (report.products, report.goals, report.canonical) == (1000, 6910, True)
