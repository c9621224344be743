"""The page over HTTP on this machine alone, for runs that are too large for one file.

The page itself holds no episodes: it asks for lists of them, which come from the index in memory, and for one at a
time, which is read from its Parquet part. A run that is still under way shows its newest steps whenever it is loaded
again.
"""

from __future__ import annotations

import errno
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pyarrow as pa
import pyarrow.compute as pc

from cluster.reporting.report.episodes import read_episodes, search
from cluster.reporting.report.index import Filter, matching, parts, read_index
from cluster.reporting.report.overview import Indexed, overview
from cluster.reporting.report.page import render
from cluster.reporting.report.runs import Run, read_runs
from cluster.reporting.report.words import Words
from trajectories.errors import ConcertoError, UserError

LISTED = 100
"""Rows of one answer."""
SEARCH_S = 2.0
"""Seconds that one answer may search in texts; the reader may ask for more."""
LOOPBACK = "127.0.0.1"


class Library:
    """Runs that may still grow, with the indexes of their episodes. Any number of threads may ask."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = folders
        self._lock = threading.Lock()
        self._parts: dict[str, tuple[Path, ...]] = {}
        self._indexed: dict[str, Indexed] = {}
        self._words: dict[str, Words] = {}
        self.refresh()

    def refresh(self) -> list[Indexed]:
        """Read what the runs have written since."""
        with self._lock:
            for run in read_runs(self._folders):
                self._indexed[run.name] = self._read(run)
            return list(self._indexed.values())

    def of(self, name: str) -> tuple[Run, pa.Table, Words]:
        """A run with its index and its tokens' texts. Raises UserError for an unknown one."""
        if name not in self._indexed:
            raise UserError(f"there is no run {name!r} here")
        indexed = self._indexed[name]
        return indexed.run, indexed.index, self._words[name]

    def _read(self, run: Run) -> Indexed:
        folders, before = parts(run), self._indexed.get(run.name)
        if run.name not in self._words or self._words[run.name].missing:
            self._words[run.name] = Words.of_run(run)
        if before is None or folders != self._parts[run.name] or run.played != before.run.played:
            index = read_index(run, folders)
        else:
            index = before.index
        self._parts[run.name] = folders
        return Indexed(run, index, self._words[run.name].missing)


def page(library: Library) -> str:
    """The page, without episodes."""
    made = time.strftime("%Y-%m-%d %H:%M")
    return render(overview(library.refresh()) | {"made": made, "served": True, "episodes": []})


def list_episodes(library: Library, asked: Mapping[str, str]) -> dict[str, Any]:
    """`{rows, total, next}` of a filter, newest first, from row `skip` on; with a text also `searched`, how far.

    Raises UserError for an unknown run and for a number that is none.
    """
    run, index, words = library.of(asked.get("run", ""))
    wanted = Filter(**{field.name: asked.get(field.name, "") for field in fields(Filter)})
    rows, skip = matching(index, wanted), asked.get("skip", "0")
    if not (skip.isascii() and skip.isdecimal()):
        raise UserError(f"skip={skip!r} is no number of rows")
    if not wanted.text:
        shown, end = rows.slice(int(skip), LISTED), int(skip) + LISTED
        answer = {}
    else:
        shown, end = _with_text(run, rows, int(skip), wanted.text, words)
        answer = {"searched": end}
    more = {"total": rows.num_rows, "next": end if end < rows.num_rows else None}
    return {"rows": [row | {"run": run.name} for row in shown.to_pylist()]} | more | answer


def one_episode(library: Library, asked: Mapping[str, str]) -> dict[str, Any]:
    """A whole episode. Raises UserError where there is none of this id."""
    run, index, words = library.of(asked.get("run", ""))
    row = index.filter(pc.field("id") == asked.get("id", ""))
    if not row.num_rows:
        raise UserError(f"{run.name} has no episode {asked.get('id', '')!r}")
    return next(read_episodes(run, row.slice(row.num_rows - 1), words)) | {"run": run.name}


def _with_text(run: Run, rows: pa.Table, start: int, text: str, words: Words) -> tuple[pa.Table, int]:
    """Rows from `start` on in which the text is, part by part until enough are found or the time is over; and the row
    at which the search goes on."""
    began, found, at = time.monotonic(), [rows.slice(0, 0)], start
    numbers = rows["part"].to_numpy()
    while at < len(numbers) and sum(map(len, found)) < LISTED and time.monotonic() - began < SEARCH_S:
        end = at + 1
        while end < len(numbers) and numbers[end] == numbers[at]:
            end += 1
        of_part = rows.slice(at, end - at)
        found.append(of_part.filter(pa.array(search(run, of_part, text, words))))
        at = end
    return pa.concat_tables(found), at


ANSWERS: Mapping[str, Callable[[Library, Mapping[str, str]], dict[str, Any]]] = {
    "/episodes": list_episodes,
    "/episode": one_episode,
}


class ReportServer(ThreadingHTTPServer):
    """Serves a library on this machine's own address; port 0 takes a free one. Raises UserError for one in use."""

    def __init__(self, library: Library, port: int) -> None:
        self.library = library
        try:
            super().__init__((LOOPBACK, port), _Handler)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            raise UserError(f"port {port} cannot be had ({error.strerror}): name another --port.") from None

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.server_address[1]}/"


class _Handler(BaseHTTPRequestHandler):
    server: ReportServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer a browser. A name that is not this machine's own comes from a page elsewhere, which gets nothing."""
        if self.headers.get("Host", "").rpartition(":")[0] not in (LOOPBACK, "localhost"):
            return self._answer(HTTPStatus.FORBIDDEN, {"error": "this report is for this machine alone"})
        url = urlsplit(self.path)
        try:
            if url.path == "/":
                return self._send(HTTPStatus.OK, page(self.server.library), "text/html")
            if url.path not in ANSWERS:
                return self._answer(HTTPStatus.NOT_FOUND, {"error": "there is nothing here"})
            asked = dict(parse_qsl(url.query, keep_blank_values=True))
            self._answer(HTTPStatus.OK, ANSWERS[url.path](self.server.library, asked))
        except ConcertoError as error:
            self._answer(HTTPStatus.BAD_REQUEST, {"error": str(error)})

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the terminal has the address, and whoever asks is at this machine."""

    def _answer(self, status: HTTPStatus, value: Mapping[str, Any]) -> None:
        self._send(status, json.dumps(value, allow_nan=False), "application/json")

    def _send(self, status: HTTPStatus, text: str, kind: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)
