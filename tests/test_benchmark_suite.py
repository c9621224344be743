"""The suite of benchmarks on small ones of its own: what is run, what stands, and what the table says."""

from __future__ import annotations

import doctest
import json
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks import figures, suite
from benchmarks.figures import QUESTIONS, Figure, write_figures
from benchmarks.startup import ONE_STEP
from benchmarks.suite import Benchmark, Places, go_through, table
from cluster.config.loading import load_config
from tests.cluster.runs import train_arguments

ABOUT = suite.about
NOW: dict[str, Any] = {
    "commit": "c0ffee",
    "machine": {"processor": "a CPU", "cores": 2, "flags": ["avx2"], "memory_gib": 8.0},
    "versions": {"torch": "2.13.0"},
}
FIGURES = [{"name": "speed", "value": 3.5, "unit": "times", "at_least": 2.0}]
TOLD = {"question": "How fast?", "seconds": 12.4, "figures": FIGURES}
FAKE = f"""
import json, pathlib, sys, time, subprocess
arguments = sys.argv[1:]
def find():
    pathlib.Path(arguments[arguments.index("--out") + 1]).write_text(json.dumps({{"figures": {FIGURES}}}))
"""
FAKES = {
    "fake_sound": 'time.sleep(0.2); pathlib.Path("ran").open("a").write("x"); print("hello"); find()',
    "fake_failing": 'find(); sys.exit("no luck")',
    "fake_silent": "",
    "fake_slow": 'subprocess.Popen(["sleep", "600"]); time.sleep(600)',
}
SOUND, FAILING, SILENT, SLOW = (Benchmark(name, f"What of {name}?", ["--size", "1"], 60.0) for name in FAKES)


@pytest.fixture(autouse=True)
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "benchmarks").mkdir()
    for name, text in FAKES.items():
        (tmp_path / "benchmarks" / f"{name}.py").write_text(FAKE + text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(suite, "about", lambda: NOW)


def stored(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text())


def test_each_benchmark_has_its_figures_seconds_and_log(tmp_path: Path) -> None:
    out = tmp_path / "results" / "bench.json"
    results = go_through([SOUND], out)
    assert stored(out) == NOW | {"benchmarks": results}
    assert results["fake_sound"]["figures"] == FIGURES
    assert results["fake_sound"]["outcome"] == "done"
    assert results["fake_sound"]["arguments"] == ["--size", "1"]
    assert results["fake_sound"]["seconds"] > 0
    assert (out.parent / "bench-fake_sound.log").read_text() == "hello\n"
    assert (out.parent / "bench.md").read_text() == (
        "commit c0ffee, a CPU, 2 cores, avx2, 8.0 GiB, torch 2.13.0\n\n" + table(results)
    )


def test_what_failed_is_a_row_and_the_others_still_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = replace(SOUND, name="fake_missing", missing="there is no TRL: install it")
    results = go_through([FAILING, SILENT, missing, SOUND], tmp_path / "bench.json")
    assert [result["outcome"] for result in results.values()] == [
        "ended with exit code 1; see bench-fake_failing.log",
        "found nothing; see bench-fake_silent.log",
        "not run: there is no TRL: install it",
        "done",
    ]
    assert results["fake_failing"]["figures"] == FIGURES, "what it found before it failed"
    assert "fake_missing         0 s  not run: there is no TRL: install it\n" in capsys.readouterr().out
    assert not (tmp_path / "bench-fake_missing.log").exists()


def test_a_benchmark_ends_at_its_limit_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suite, "GRACE_S", 5.0)
    results = go_through([replace(SLOW, limit_s=1.0)], tmp_path / "bench.json")
    assert results["fake_slow"]["outcome"] == "stopped after 1 s; see bench-fake_slow.log"
    below = [child for child in psutil.Process().children(recursive=True) if child.status() != psutil.STATUS_ZOMBIE]
    assert "sleep" not in [child.name() for child in below]


def test_given_again_it_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, ran = tmp_path / "bench.json", tmp_path / "ran"

    def stop(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        original = suite.run
        patch.setattr(suite, "run", lambda one, log: original(one, log) if one is SOUND else stop())
        go_through([SOUND, FAILING], out)
    first = stored(out)["benchmarks"]
    assert list(first) == ["fake_sound"]
    for _ in range(2):
        again = go_through([FAILING, SOUND], out)
        assert again["fake_sound"] == first["fake_sound"]
        assert list(again) == ["fake_failing", "fake_sound"]
    assert ran.read_text() == "x"


@pytest.mark.parametrize(
    ("now", "again"),
    [
        (NOW, True),
        (NOW | {"commit": "decaf"}, False),
        (NOW | {"versions": {"torch": "2.14.0"}}, False),
        (NOW | {"commit": ""}, False),
        (NOW | {"commit": "c0ffee, changed"}, False),
    ],
    ids=["the same", "another commit", "another torch", "no repository", "changes"],
)
def test_only_figures_of_the_same_code_and_arguments_stand(now: dict[str, Any], again: bool, tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    unknown = not now["commit"] or now["commit"].endswith("changed")
    suite.write(out, now if unknown else NOW, {"fake_sound": TOLD | {"arguments": SOUND.arguments, "outcome": "done"}})
    assert bool(suite.found_before(out, now, [SOUND])) == again
    assert suite.found_before(out, now, [replace(SOUND, arguments=["--size", "2"])]) == {}


def test_the_table_has_a_row_a_figure_and_one_for_what_went_wrong() -> None:
    two = [*FIGURES, {"name": "memory", "value": 5750.4, "unit": "MB", "at_most": 10.0}]
    results = {
        "speed": TOLD | {"figures": two, "outcome": "done"},
        "torn": TOLD | {"outcome": "stopped after 9 s; see x.log"},
        "absent": TOLD | {"figures": [], "outcome": "not run: no", "seconds": 0.0},
    }
    assert table(results).splitlines()[2:] == [
        "| How fast? `speed` | speed | 3.5 times | at least 2: reached | 12 |",
        "|  | memory | 5,750 MB | at most 10: missed |  |",
        "| How fast? `torn` | speed | 3.5 times | at least 2: reached | 12 |",
        "|  | stopped after 9 s; see x.log |  |  |  |",
        "| How fast? `absent` | not run: no |  |  | 0 |",
    ]


def test_the_exit_code_tells_of_failures_and_not_of_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["suite", "--data", "d", "--model", "m", "--out", str(tmp_path / "bench.json")])
    missing = replace(SOUND, name="fake_missing", missing="no data")
    for benchmarks, code in (([SOUND, missing], 0), ([FAILING], 1)):
        monkeypatch.setattr(suite, "suite", lambda at, given=benchmarks: given)
        assert suite.main() == code


@pytest.mark.parametrize("full", [True, False], ids=["all there", "nothing there"])
def test_every_module_takes_what_the_suite_gives_it(full: bool, tmp_path: Path) -> None:
    run = tmp_path / "run"
    if full:
        for file in ("run/model", "run/metrics.jsonl", "run/demonstrations.parquet", suite.GAMES, suite.SHOP):
            (tmp_path / file).mkdir(parents=True)
    benchmarks = suite.suite(Places(tmp_path, run / "model", tmp_path / "python"))
    assert [one.name for one in benchmarks] == list(QUESTIONS)
    for one in benchmarks:
        options = import_module(f"benchmarks.{one.name}").make_parser().parse_args([*one.arguments, "--out", "x.json"])
        assert options.out == Path("x.json")
    missing = {one.name: one.missing for one in benchmarks}
    assert bool(missing["webshop"]) == (not full)
    assert "pip install" in missing["against_trl"]


def test_about_tells_machine_and_versions() -> None:
    now = ABOUT()
    assert now["machine"]["cores"] >= 1
    assert {"python", "torch"} <= set(now["versions"])
    assert set(now) == set(NOW)
    assert set(now["machine"]) == set(NOW["machine"])
    assert suite.heading(now).startswith("commit unknown, "), "this folder is in no repository"


def test_the_run_of_the_start_up_has_settings_that_exist(tmp_path: Path) -> None:
    arguments = train_arguments(tmp_path, Path("concerto-tiny"), **ONE_STEP)
    config = load_config("local", overrides=arguments[arguments.index("--set") + 1 :: 2])
    assert (config.schedule.sft_steps, config.schedule.grpo_steps, config.evaluation.panels) == (0, 1, ())


def test_figures_are_written_with_their_question_and_without_what_is_not_set(tmp_path: Path) -> None:
    failed, tried = doctest.testmod(figures)
    assert tried >= 2
    assert not failed
    write_figures(None, "webshop", [])
    write_figures(tmp_path / "x.json", "webshop", [Figure("memory", 1.5, "MB", at_most=10.0)], rows=[1])
    assert stored(tmp_path / "x.json") == {
        "benchmark": "webshop",
        "question": QUESTIONS["webshop"],
        "figures": [{"name": "memory", "value": 1.5, "unit": "MB", "at_most": 10.0}],
        "rows": [1],
    }
