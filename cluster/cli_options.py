"""What commands of `concerto` have in common: where they print, and options that several take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

CONSOLE = Console(soft_wrap=True)
"""Lines stay whole, so that logs can be searched and commands be copied."""


def path(text: str | Path) -> Path:
    """A path as it was typed: a shell leaves the `~` of --out=~/run as it is."""
    return Path(text).expanduser()


AT: dict[str, Any] = {"parser": path, "metavar": "PATH"}
"""Of every option and argument that is a path."""

Preset = Annotated[str, typer.Option(help="local, inline or instruct (no GPU), gpu (one GPU) or cluster (many nodes).")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="YAML file that changes the preset.", **AT)]
Data = Annotated[
    Path | None, typer.Option(help="The environment's data; none for what is installed or embedded.", **AT)
]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="One setting, e.g. --set learner.lr=1e-5.")]
