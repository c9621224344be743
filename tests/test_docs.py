"""Commands in README and docs: each is one that the program takes, with settings that exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup

from cluster.cli import app
from cluster.config.loading import load_config

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
RESULTS = sorted((ROOT / "docs" / "results").glob("*.md"))
"""What was measured with the settings of its day: only the benchmarks that they name must still be there."""
FENCE = re.compile(r"^```(?:bash|sh|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:^ {4}\S.*\n)+", re.MULTILINE)
LEFT_OUT = "…"
"""Where a page leaves something out, its command is none yet."""


def commands(page: Path) -> Iterator[list[str]]:
    """The words of every line that begins with a program, those that go on over lines put together."""
    text = page.read_text()
    for block in (*FENCE.findall(text), *INDENTED.findall(text)):
        for line in block.replace("\\\n", " ").splitlines():
            if LEFT_OUT in line:
                continue
            try:
                words = shlex.split(line, comments=True)
            except ValueError:  # an apostrophe in a sentence: no command
                continue
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words = words[1:]
            if words:
                yield words


def own_words(words: list[str]) -> list[str] | None:
    """What follows the command `concerto` in a line; None where it starts something else."""
    if Path(words[0]).name == "concerto":
        return words[1:]
    if "cluster" in words and words[words.index("cluster") - 1] == "-m":
        return words[words.index("cluster") + 1 :]
    return None


def take(arguments: list[str]) -> None:
    """Raises what the command line, or the settings that it changes, would not take."""
    command: Any = typer.main.get_command(app)
    context = command.make_context("concerto", list(arguments))
    while isinstance(command, TyperGroup):
        _, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        assert command is not None
        context = command.make_context(command.name, rest, parent=context)
    if command.name == "submit":
        return take(context.params["command"])
    if "set_" in context.params:
        load_config(context.params.get("preset") or "local", overrides=list(context.params["set_"] or []))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_a_page_is_taken(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:8265")  # as docs/cluster.md exports it
    for words in commands(page):
        if (arguments := own_words(words)) is not None:
            try:
                take(arguments)
            except Exception as error:
                pytest.fail(f"{' '.join(words)}: {error}")


@pytest.mark.parametrize("page", [*PAGES, *RESULTS], ids=lambda page: page.name)
def test_every_module_that_a_page_starts_is_there_and_knows_its_options(page: Path) -> None:
    for words in commands(page):
        if "-m" not in words or not (name := words[words.index("-m") + 1]).startswith(("benchmarks.", "examples.")):
            continue
        if not name.isupper() and not name.endswith((".NAME", ".X")):
            module = find_spec(name)
            assert module and module.origin, f"{page.name}: {' '.join(words)}"
            source = Path(module.origin).read_text()
            unknown = [word for word in words if re.match(r"--[a-z]", word) and word not in source]
            assert not unknown, f"{page.name}: {' '.join(words)}: {unknown}"


def test_commands_are_found_in_a_page() -> None:
    """Else the others would hold whatever the pages say."""
    found = [own_words(words) for words in commands(ROOT / "README.md")]
    assert sum(words is not None for words in found) >= 30
    with pytest.raises(Exception, match="No such option"):
        take(["train", "--outt", "runs/x"])
    with pytest.raises(Exception, match=r"learner\.rate"):
        take(["train", "--out", "runs/x", "--set", "learner.rate=1"])
