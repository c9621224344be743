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
from tests.experience.scripted import WordEmbedder

REPO = Path(__file__).parents[2]
HEAD = "http://head:8265"
GAME = "valid_seen/pick_and_place_simple-Mug-None-Desk-308/trial_1"

COMMANDS = {
    "train": "train --config {config} --out {new_folder} --set policy.model={model} --set tasks=webshop "
    "--set data.webshop=generated --set evaluation.panels=[questions/test] --set data.questions={questions} "
    "--set router.policy=median_split --set router.routes={routes} "
    "--set schedule.demonstrations_file={demonstrations}",
    "train on games": "train --out {new_folder} --set tasks=alfworld/valid_seen --set data.alfworld={games}",
    "train --resume": "train --out {run} --resume",
    "eval": "eval --config {config} --model {model} --panel questions/test --data {questions} --out {new_file}",
    "eval in a shop": "eval --model concerto-tiny --panel webshop/test --data {products} --out {new_file}",
    "eval of games": "eval --model concerto-tiny --panel alfworld/valid_seen --data {games} --out {new_file}",
    "probe": "probe --model {model} --corpus {corpus} --out {new_file}",
    "route": "route --scores {scores} --out {new_file}",
    "compare": "compare {matrix} --out {new_folder}",
    "report": "report {run} --out {new_file}",
    "plan": "plan --preset local --config {config} --set policy.model={model}",
    "check": "check --config {config} --set policy.model={model} --set tasks=questions "
    "--set data.questions={questions}",
    "play": "play webshop 0 --data {products}",
    "play a game": f"play alfworld {GAME} --data {{games}}",
    "tasks": "tasks questions/train --data {questions}",
    "tasks of a shop": "tasks webshop/test --data {products}",
    "tasks of games": "tasks alfworld/valid_seen --data {games}",
    "data alfworld": "data alfworld --from {games}",
    "data webshop": "data webshop --from {products}",
    "data import": "data import {recordings} --environment webshop --data generated --config {config} "
    "--set policy.model={model} --out {new_file}",
    "learn": "learn --tasks {questions} --references {texts} --base-url http://localhost:9/v1 --model m "
    "--memory {memory} --out {new_folder}",
    "memory show": "memory show {memory}",
    "memory export": "memory export {memory} --out {new_file}",
    "memory diff": "memory diff {memory} 1 2",
    "memory restore": "memory restore {memory} --snapshot 1",
    "demo": "demo --out {new_folder}",
    "submit": "submit --address http://head:8265 --working-dir {sources} -- train --out run",
    "jobs status": "jobs status raysubmit_1 --address http://head:8265",
    "jobs logs": "jobs logs raysubmit_1 --address http://head:8265",
    "jobs stop": "jobs stop raysubmit_1 --address http://head:8265",
}
"""Commands that work; each name in braces is an input, which may have any of the faults of its kind."""

TOKENIZER = tuple(fault for fault in FAULTS["model"] if "tokenizer" in fault and fault != "no tokenizer")
FINE = {
    "nothing is changed": [(name, "config", "empty") for name in COMMANDS],
    "rows that cannot be read are left out, with a warning": [(name, "questions", "torn") for name in COMMANDS],
    "a memory is made where there is none": [("learn", "memory", fault) for fault in ("missing", "empty")],
    "a probe reads no tokenizer": [("probe", "model", fault) for fault in TOKENIZER],
    "recordings are read by the tokenizer alone": [
        ("data import", "model", fault) for fault in ("config.json of nothing known", "folder tokenizer_config.json")
    ],
    "a report reads no checkpoint": [("report", "run", fault) for fault in FAULTS["run"] if "manifest" in fault],
    "the snapshot that is asked for is whole": [("memory restore", "memory", "torn rows")],
}
"""Cells that are no fault, by the reason."""

SAID = {
    ("config", "unknown key"): "unknown key 'seeed'",
    ("config", "wrong type"): "seed=['x'] does not fit",
    ("config", "unknown preset"): "unknown key 'preset'",
    ("config", "number as a key"): "1=1 does not fit: keys should be strings",
}
"""What the line names where it is not the input."""

DEEP = "[" * 500
SETTINGS = {
    "learner.lr=quick": "learner.lr='quick' does not fit",
    "learner.lr=": "learner.lr=",
    "learner.lr=nan": "learner.lr='nan' does not fit",
    "learner.lr=.inf": "learner.lr=inf does not fit",
    "learner.lr=-1": "learner.lr=-1",
    "learner.rl=1": "unknown key 'learner.rl'",
    "learner": "--set learner is no assignment",
    "=1": "--set =1 is no assignment",
    "learner=1": "learner is a section",
    "learner.lr.x=1": "learner.lr",
    "seed=2024-13-45": "seed='2024-13-45'",
    "seed=1.5": "seed=1.5",
    f"seed={DEEP}": "seed='[[[",
    "data.alfwrld=x": "unknown environment 'alfwrld'",
    "tasks=[]": "tasks",
    "tasks=alfwrld": "unknown environment 'alfwrld'",
    "router.policy=medain": "router.policy='medain'",
    "rollout.prompt.mode=windwed": "rollout.prompt.mode='windwed'",
    "schedule.grpo_steps=-1": "schedule.grpo_steps=-1",
    "schedule.grpo_steps=1e3": "schedule.grpo_steps",
    "schedule.temperature=hot": "schedule.temperature",
    "policy.lora=yes": "policy.lora",
    "environments.webshop.goals=humen": "environments.webshop.goals",
}
"""Wrong values of --set, and what the line names."""

OPTIONS = {
    "train": {
        "--preset locl": "'locl'",
        "--set policy.model=x": "no model at 'x'",
        "--set tasks=alfworld/trian": "trian",
    },
    "eval": {
        "--preset locl": "'locl'",
        "--model x": "no model at 'x'",
        "--limit 0": "'--limit'",
        "--limit x": "'--limit'",
        "--samples -1": "'--samples'",
        "--panel questions/valid": "'valid'",
        "--panel alfwrld/valid_seen": "'alfwrld'",
        "--panel questions": "'questions' is no panel",
    },
    "probe": {
        "--model x": "no model at 'x'",
        "--metric ginni": "metric='ginni'",
        "--workers 0": "'--workers'",
        "--token-budget x": "'--token-budget'",
        "--precision slow": "precision='slow'",
        "--sketch -1": "'--sketch'",
        "--sample-layers 0": "'--sample-layers'",
    },
    "route": {
        "--policy medain": "policy='medain'",
        "--policy pass_rate": "pass rate",
        "--policy chord": "chord",
        "--share 2": "share=2",
        "--share 0": "share=0",
        "--share nan": "share=nan",
        "--share x": "'--share'",
        "--thresholds corpse": "thresholds='corpse'",
        "--seed x": "'--seed'",
    },
    "report": {"--serve": "--serve", "--episodes -1": "'--episodes'", "--port x": "'--port'"},
    "plan": {"--preset locl": "'locl'", "--set placement.learner_workers=0": "placement.learner_workers=0"},
    "check": {"--preset locl": "'locl'", "--set policy.model=x": "no model at 'x'"},
    "data import": {
        "--preset locl": "'locl'",
        "--environment questions": "'questions'",
        "--environment alfwrld": "'alfwrld'",
    },
    "learn": {
        "--token-budget 0": "'--token-budget'",
        "--base-url nowhere": "--base-url",
        "--memory /proc/concerto/memory": "/proc/concerto/memory",
    },
    "memory show": {"--snapshot 99": "no snapshot 99", "--snapshot x": "'--snapshot'", "--snapshot 0": "no snapshot 0"},
    "memory export": {"--snapshot 99": "no snapshot 99", "--snapshot -1": "no snapshot -1"},
    "memory restore": {"--snapshot 99": "no snapshot 99", "--snapshot 0": "no snapshot 0"},
    "demo": {"--seed x": "'--seed'"},
    "submit": {"--preset": "'--preset'", "--resume=maybe": "'--resume'"},
    **{
        f"jobs {name}": {
            "--address head:8265": "--address head:8265 is no URL",
            "--address ray://head:10001": "--address ray://head:10001 is no URL",
            "--address http://head:99999": "--address http://head:99999 is no URL",
            "--address http://127.0.0.1:9": "no Ray dashboard at http://127.0.0.1:9 ([Errno 111]",
        }
        for name in ("status", "logs", "stop")
    },
}
"""Wrong options of a command, and what the line names."""

LINES = {
    "trian": "'trian'",
    "data wikipedia": "'wikipedia'",
    "memory forget": "'forget'",
    "play alfwrld x": "'alfwrld'",
    "play alfworld generated/heldout/none/trial": "unknown ALFWorld task",
    "play webshop x --data generated": "'x'",
    "play webshop -1 --data generated": "-1",
    "play questions x": "'x'",
    "tasks nowhere/train": "'nowhere'",
    "tasks alfworld": "'alfworld' is no panel",
    "tasks webshop/tset --data generated": "'tset'",
    "tasks questions/": "''",
    "memory diff {memory} 99": "no snapshot 99",
    "memory diff {memory} 1 99": "no snapshot 99",
    "memory diff {memory} x": "'before'",
    "submit -- train --out x": "'--address'",
    "submit --address nowhere -- train --out x": "--address nowhere is no URL",
    "submit --address http://127.0.0.1:9 -- train --out x": "no Ray dashboard at http://127.0.0.1:9 ([Errno 111]",
    "submit --address http://head:8265 -- trian --out x": "'trian'",
    "submit --address http://head:8265 -- train": "'--out'",
    "submit --address http://head:8265 -- submit --address http://head:8265 -- train": "'submit'",
    "submit --address http://head:8265 --env x -- train --out x": "--env x",
    "submit --address http://head:8265 --env 1=x -- train --out x": "--env 1=x",
    "jobs halt x": "'halt'",
    "jobs stop x": "'--address'",
}
"""Other wrong lines, and what is named."""
WITH_SETTINGS = ("train", "eval", "plan", "check", "play", "tasks", "data import")
NEEDY = [name for name in COMMANDS if name not in ("plan", "check", "data alfworld", "data webshop", "demo")]
"""Commands that lack something when they are given alone."""


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
