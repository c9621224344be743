"""`concerto data`: the official data of an environment, installed from a file or folder, or by download."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from envs.alfworld import install as alfworld
from envs.webshop import install as webshop


def install_alfworld(source: Path | None, console: Console) -> None:
    """Install the official games from an archive or folder, or download them. Raises UserError."""
    if source is None:
        with _downloads(console) as (progress, task):
            source = alfworld.download(
                progress=lambda done, total: progress.update(task, completed=done, total=total or None)
            )
    report = alfworld.install(source)
    counts = ", ".join(f"{games} {split}" for split, games in report.games.items())
    console.print(f"Installed {counts} in {report.folder}.", highlight=False)


def install_webshop(source: Path | None, size: webshop.CatalogueSize, console: Console) -> None:
    """Install the original's files from a folder, or download the catalogue of `size`. Raises UserError."""
    if source is None:
        with _downloads(console) as (progress, task):
            source = webshop.download(
                size,
                progress=lambda name, done, total: progress.update(
                    task, description=name, completed=done, total=total or None
                ),
            )
    console.print("building the catalogue", highlight=False)
    report = webshop.install(source)
    canonical = "the canonical 1,000 products" if report.canonical else f"{report.products:,} products"
    left_out = f" {report.refused} rows could not be read and were left out." if report.refused else ""
    console.print(f"Installed {canonical} with {report.goals:,} goals in {report.folder}.{left_out}", highlight=False)


@contextmanager
def _downloads(console: Console) -> Iterator[tuple[Progress, TaskID]]:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console) as progress:
        yield progress, progress.add_task("download", total=None)
