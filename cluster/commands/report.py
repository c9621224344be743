"""`concerto report`: runs as one page, in a file or over HTTP on this machine."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from cluster.reporting.report.episodes import read_episodes
from cluster.reporting.report.index import parts, read_index, sample
from cluster.reporting.report.overview import Indexed, overview
from cluster.reporting.report.page import render
from cluster.reporting.report.runs import read_runs
from cluster.reporting.report.server import Library, ReportServer
from cluster.reporting.report.words import Words
from trajectories.files import MEBIBYTE, written_aside


def write_report(folders: Sequence[Path], out: Path, episodes: int, console: Console) -> None:
    """Write a page that needs nothing else, with at most so many episodes of all runs together.

    Raises UserError where a folder holds no run, or a file of one is damaged.
    """
    runs = read_runs(folders)
    words = [Words.of_run(run) for run in runs]
    indexed = [Indexed(run, read_index(run, parts(run)), own.missing) for run, own in zip(runs, words, strict=True)]
    held = list(_sampled(indexed, words, episodes // len(runs)))
    page = render(overview(indexed) | {"made": time.strftime("%Y-%m-%d %H:%M"), "served": False, "episodes": held})
    with written_aside(out) as aside:
        aside.write_text(page, encoding="utf-8")
    recorded = sum(one.index.num_rows for one in indexed)
    size = out.stat().st_size / MEBIBYTE
    console.print(f"Written to {out}: {len(held)} of {recorded} recorded episodes, {size:.1f} MiB.", highlight=False)


def serve_report(folders: Sequence[Path], port: int, console: Console) -> None:
    """Serve the page, with all episodes, until Ctrl-C."""
    with ReportServer(Library(folders), port) as server:
        console.print(f"The report is at {server.url} until Ctrl-C.", highlight=False)
        server.serve_forever()


def _sampled(indexed: Sequence[Indexed], words: Sequence[Words], count: int) -> Iterator[dict[str, Any]]:
    for one, own in zip(indexed, words, strict=True):
        for episode in read_episodes(one.run, sample(one.index, count), own):
            yield episode | {"run": one.run.name}
