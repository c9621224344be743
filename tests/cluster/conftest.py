"""The command in the tests' own process."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from cluster.cli import main


@dataclass(frozen=True)
class Result:
    """What a command came to."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def concerto(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """The command in this process, which has imported everything already; `text` is its standard input."""

    def run(*arguments: object, text: str = "") -> Result:
        monkeypatch.setattr(sys, "argv", ["concerto", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        with pytest.raises(SystemExit) as end:
            main()
        output = capsys.readouterr()
        return Result(int(end.value.code or 0), output.out, output.err)

    return run
