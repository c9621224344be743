"""A user's wrong steps as a matrix: every command with everything that can be wrong with what it is given.

In each cell the command ends with exit code 2 and one line that names what is wrong, starts nothing, leaves no process,
and no file but those that were there.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import psutil
import pytest
import ray

from cluster.cli import main
from cluster.commands import jobs
from cluster.runtime.placement import Node
from envs.webshop.storage import CACHE_VARIABLE
from experience.openai_chat import OpenAIChat
from experience.sentence_embedder import SentenceEmbedder
from tests.cluster.spoiled import FAULTS, NOWHERE, good_inputs
from tests.cluster.wrong_steps import COMMANDS, FINE, LINES, NEEDY, OPTIONS, SAID, SETTINGS, WITH_SETTINGS
from tests.experience.scripted import WordEmbedder

REPO = Path(__file__).parents[2]
HEAD = "http://head:8265"


def cells(fine: bool) -> list[object]:
    kept = {cell for cells in FINE.values() for cell in cells}
    return [
        pytest.param((command, name, fault), id=f"{command}-{name}-{fault}")
        for command, words in COMMANDS.items()
        for name, faults in FAULTS.items()
        if f"{{{name}}}" in words
        for fault in faults
        if ((command, name, fault) in kept) == fine
    ]


class Started(BaseException):
    """The command has passed all its checks and begins: with Ray, another process or an endpoint."""


@dataclass(frozen=True)
class Result:
    code: int
    stderr: str


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    folder = tmp_path_factory.mktemp("good")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(folder / "cache"))
        yield good_inputs(folder)


@pytest.fixture
def concerto(monkeypatch, capsys, tmp_path):
    """The command in this process; nothing can be started."""

    def start(*arguments: object, **options: object) -> NoReturn:
        raise Started

    monkeypatch.setattr(ray, "init", start)
    monkeypatch.setattr("cluster.commands.compare.run_process", start)
    monkeypatch.setattr("cluster.commands.jobs._check_answers", partial(answer, start, jobs._check_answers))
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    monkeypatch.setattr(OpenAIChat, "complete", start)
    monkeypatch.setattr("cluster.commands.plan.ray_cluster", lambda placement: nullcontext())
    monkeypatch.setattr("cluster.commands.plan.cluster_nodes", lambda: [Node("here", 64.0, 0.0)])
    monkeypatch.setattr(SentenceEmbedder, "load", lambda name: WordEmbedder(name))
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    monkeypatch.setenv("CONCERTO_DATA", str(tmp_path / "installed"))

    def run(words: list[str]) -> Result:
        monkeypatch.setattr(sys, "argv", ["concerto", *words])
        with pytest.raises(SystemExit) as end:
            main()
        return Result(int(end.value.code or 0), capsys.readouterr().err)

    return run


def answer(start: Callable[[], NoReturn], check: Callable[[str], None], address: str) -> None:
    """One head answers."""
    if address == HEAD:
        start()
    check(address)


WRITTEN_IN = {"memory": ("learn", "memory"), "run": ("resume",)}
"""Inputs that a command writes in, and words of the cells that need one of their own."""


@pytest.fixture
def given(good, tmp_path, request) -> dict[str, Path]:
    """Good inputs, of which those that a command writes in are this test's own."""
    asked = str(request.node.callspec.params) if hasattr(request.node, "callspec") else ""
    own = {
        name: shutil.copytree(good[name], tmp_path / name)
        for name in ("memory", "run")
        if any(word in asked for word in WRITTEN_IN[name])
    }
    return good | own | {"new_file": tmp_path / "new.file", "new_folder": tmp_path / "new"}


def words(command: str, given: dict[str, Path]) -> list[str]:
    return [word.format(**given) for word in COMMANDS[command].split()]


def state(folder: Path) -> dict[Path, tuple[int, ...]]:
    """Every file below a folder, and what changes when it is written."""
    found = {path: path.lstat() for path in folder.rglob("*") if not path.is_dir()}
    return {path: (stat.st_ino, stat.st_size, stat.st_mtime_ns) for path, stat in found.items()}


def assert_refused(result: Result, part: str) -> None:
    (line,) = result.stderr.splitlines()
    assert result.code == 2 and line.startswith("concerto: ") and part in line


@pytest.mark.parametrize("command", COMMANDS)
def test_without_a_fault_the_command_begins_or_is_done(concerto, given, command):
    try:
        assert concerto(words(command, given)).code == 0
    except Started:
        assert COMMANDS[command].split()[0] in {"train", "eval", "probe", "compare", "learn", "demo", "submit", "jobs"}


@pytest.mark.parametrize("cell", cells(fine=True))
def test_what_is_no_fault_stops_no_command(concerto, given, tmp_path, cell):
    command, name, fault = cell
    good, given[name] = given[name], tmp_path / f"spoiled-{given[name].name}"
    FAULTS[name][fault](good, given[name])
    with suppress(Started):
        assert concerto(words(command, given)).code == 0


@pytest.mark.parametrize("cell", cells(fine=False))
def test_a_fault_ends_the_command_with_one_line(concerto, given, tmp_path, monkeypatch, cell):
    command, name, fault = cell
    good, place = given[name], tmp_path / f"spoiled-{given[name].name}"
    if fault == "read-only":
        place = Path(NOWHERE) / "out"
    elif fault == "below a file":
        (tmp_path / "file").touch()
        place = tmp_path / "file" / "out"
    elif fault == "full disk":
        monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=2**19))
    FAULTS[name][fault](good, place)
    before, processes = state(tmp_path), psutil.Process().children()
    assert_refused(concerto(words(command, given | {name: place})), SAID.get((name, fault), str(place)))
    assert state(tmp_path) == before
    assert psutil.Process().children() == processes


@pytest.mark.parametrize("command", WITH_SETTINGS)
@pytest.mark.parametrize(("setting", "part"), SETTINGS.items(), ids=[setting[:30] for setting in SETTINGS])
def test_a_wrong_setting_ends_the_command_with_one_line(concerto, given, tmp_path, command, setting, part):
    before = state(tmp_path)
    assert_refused(concerto([*words(command, given), "--set", setting]), part)
    assert state(tmp_path) == before


@pytest.mark.parametrize(
    ("command", "options", "part"),
    [
        pytest.param(name, *option, id=f"{name} {option[0]}")
        for name, options in OPTIONS.items()
        for option in options.items()
    ],
)
def test_a_wrong_option_ends_the_command_with_one_line(concerto, given, tmp_path, command, options, part):
    before = state(tmp_path)
    assert_refused(concerto([*words(command, given), *options.split()]), part)
    assert state(tmp_path) == before


@pytest.mark.parametrize("command", COMMANDS)
def test_an_option_that_there_is_not_ends_the_command_with_one_line(concerto, given, tmp_path, command):
    before = state(tmp_path)
    assert_refused(concerto([*words(command, given), "--colour", "red"]), "--colour")
    assert state(tmp_path) == before


@pytest.mark.parametrize("command", NEEDY)
def test_an_option_or_argument_that_is_missing_is_named(concerto, given, tmp_path, command):
    before = state(tmp_path)
    alone = words(command, given)[: 2 if command.startswith(("data", "memory", "jobs")) else 1]
    assert_refused(concerto(alone), "missing")
    assert state(tmp_path) == before


@pytest.mark.parametrize(("line", "part"), LINES.items())
def test_a_wrong_line_ends_with_one_line(concerto, given, line, part):
    assert_refused(concerto(line.format(**given).split()), part)


SECONDS = {"torch", "transformers", "ray", "vllm"}
"""Libraries whose import takes seconds."""
IMPORTED = (
    "import sys; from cluster.cli import main\ntry: main()\nexcept SystemExit as end: print(end.code, *sys.modules)"
)


@pytest.mark.parametrize(
    ("line", "free_of"),
    [
        ("train --out {new} --set learner.lr=quick", SECONDS),
        ("train --out {new} --set data.alfworld=/nowhere", SECONDS - {"torch"}),
        ("eval --model concerto-tiny --panel questions/test --data /nowhere --out {new}", SECONDS),
        ("probe --model concerto-tiny --corpus /nowhere --out {new}", SECONDS),
        ("probe --model /nowhere --corpus {corpus} --out {new}", SECONDS),
    ],
)
def test_a_wrong_step_is_told_before_what_takes_seconds_is_imported(good, tmp_path, line, free_of):
    words = line.format(new=tmp_path / "new", **good).split()
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED, *words], capture_output=True, text=True, timeout=60, cwd=REPO
    )
    code, *modules = done.stdout.split()
    assert code == "2" and not free_of & set(modules)
