"""A comparison: its matrix, its sums, what it keeps when it is given again, and two arms on real Ray and vLLM."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import psutil
import pytest
import yaml
from rich.console import Console

from cluster.commands import compare
from cluster.commands.compare import run_compare
from cluster.config.loading import load_config
from cluster.config.matrix import load_matrix
from cluster.inputs.run_folder import save_config
from cluster.reporting.estimators import wilson_rate
from cluster.reporting.evaluation import evaluation_file, write_evaluations
from cluster.reporting.summary import RunSummary, compare_runs, markdown, summarise_run
from tests.cluster.reporting.samples import evaluation
from tests.cluster.runs import REPO, SETTINGS
from trajectories.errors import RunError, UserError

CONSOLE = Console(quiet=True)
ARMS = {
    "prism": {"router": {"policy": "median_split"}},
    "grpo": {"router": {"policy": "all_grpo"}, "schedule": {"sft_steps": 0}},
}


def write_matrix(path: Path, **changes: object) -> Path:
    values = {"settings": {"schedule": {"sft_steps": 1, "grpo_steps": 1}}, "seeds": [0, 1], "arms": ARMS}
    path.write_text(yaml.safe_dump(values | changes, sort_keys=False))
    return path


def test_an_arm_changes_what_it_names_and_nothing_else(tmp_path):
    runs = load_matrix(write_matrix(tmp_path / "m.yaml")).runs()
    assert list(runs) == ["prism-0", "grpo-0", "prism-1", "grpo-1"]
    assert (runs["prism-1"].seed, runs["prism-1"].schedule.sft_steps, runs["grpo-1"].schedule.sft_steps) == (1, 1, 0)
    assert runs["prism-0"].model_copy(update={"router": runs["grpo-0"].router}).schedule.grpo_steps == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": {}}, "arms"),
        ({"arms": {"a b": {}}}, "the arm 'a b': a name is text"),
        ({"sedes": [1]}, "sedes"),
        ({"reference": "sft"}, "the reference 'sft' is no arm"),
        ({"preset": "locla"}, "Did you mean 'local'"),
        ({"arms": {"x": {"router": {"policy": "y"}}}}, "arm x: router.policy='y' does not fit"),
        ({"settings": {"evaluation": {"panels": []}}}, "there is nothing to compare"),
        ({"arms": ARMS | {"x": {"evaluation": {"limit": 5}}}}, "x-0 and prism-0 are evaluated on other games"),
        ({"arms": ARMS | {"x": {"rollout": {"max_turns": 5}}}}, "x-0 and prism-0 are evaluated on other games"),
        ({"arms": ARMS | {"x": {"evaluation": {"samples": 4}}}}, "x-0 and prism-0 are evaluated on other games"),
    ],
)
def test_a_wrong_matrix_is_told_before_anything_is_trained(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        run_compare(write_matrix(tmp_path / "m.yaml", **changes), tmp_path / "out", CONSOLE)
    assert not (tmp_path / "out").exists()


def finish(run_dir: Path, wins: int, rl_seconds: float) -> None:
    """What a run leaves behind, as far as a comparison reads it."""
    records = [
        {"step": 0, "stage": "routing", "routing_s": 4.0, "probe_s": 3.0},
        {"step": 1, "stage": "sft", "step_s": 2.0, "sft/tokens": 100.0},
        {"step": 2, "stage": "grpo", "step_s": rl_seconds, "grpo/tokens": 50.0, "response_tokens": 7.0},
    ]
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    played = {"base": ([False] * 10, [1] * 10), "after_grpo": ([True] * wins + [False] * (10 - wins), [2] * 10)}
    for at, (name, (solved, sampled)) in enumerate(played.items()):
        file = evaluation_file(run_dir, name)
        write_evaluations(file, (evaluation(solved, sampled, samples=4, seconds=2.5),))
        os.utime(file, (at, at))
    (run_dir / "model").mkdir()
    (run_dir / "learning_curve.svg").write_text("<svg/>")


def test_seconds_and_tokens_come_from_what_the_run_wrote(tmp_path):
    finish(tmp_path, wins=4, rl_seconds=6.0)
    summary = summarise_run(tmp_path)
    assert summary.seconds == {"probe": 4.0, "sft": 2.0, "rl": 6.0, "evaluation": 5.0}
    assert summary.training_seconds == 12.0
    assert summary.tokens == {"sft": 100.0, "grpo": 50.0} and summary.response_tokens == 7.0
    assert summary.success == {"alfworld/x": wilson_rate(4, 10)}
    assert summary.sampled["alfworld/x"].rate == 0.5
    (pair,) = summary.paired
    assert (pair.weights, pair.against, pair.greedy.won, pair.greedy.lost) == ("after_grpo", "base", 4, 0)
    assert pair.sampled and pair.sampled.difference == 0.25


def summary(wins: int, rl: float) -> RunSummary:
    return RunSummary(
        success={"p": wilson_rate(wins, 10)},
        sampled={},
        paired=(),
        panel_hashes={"p": "c0ffee"},
        seconds={"probe": 1.0, "sft": 1.0, "rl": rl, "evaluation": 9.0},
        tokens={"sft": 1.0, "grpo": 2.0},
        response_tokens=rl,
    )


def test_an_arm_is_the_mean_of_its_seeds_with_intervals_and_speedup():
    runs = {"a-0": summary(4, 2.0), "a-1": summary(8, 2.0), "b-0": summary(5, 6.0), "b-1": summary(5, 6.0)}
    a, b = compare_runs(runs, ["a", "b"], [0, 1], reference="b").arms
    assert (a.mean, a.least, a.most) == pytest.approx((0.6, 0.4, 0.8))
    assert (a.pooled, a.speedup, b.speedup) == (wilson_rate(12, 20), 2.0, 1.0)
    half = 12.7062 * np.std([0.4, 0.8], ddof=1) / math.sqrt(2)
    assert (a.low, a.high) == pytest.approx((0.6 - half, 0.6 + half), abs=1e-3)
    text = markdown(compare_runs(runs, ["a", "b"], [0, 1], "b"))
    assert (a.response_tokens, b.response_tokens, a.training_seconds) == (2.0, 6.0, 4.0)
    assert "| 1.0 | 1.0 | 2.0 | 9.0 | 4.0 | 1 | 2 | 2.0 | 2.00 |" in text, "seconds by phase, of training, tokens"
    assert "| a | 0.600 [0.400, 0.800] |" in text and "speed-up against b" in text and "12/20" in text


def test_runs_on_different_panels_are_not_compared():
    other = summary(4, 2.0).model_copy(update={"panel_hashes": {"p": "decade"}})
    with pytest.raises(UserError, match="b-0 and a-0 were evaluated on different panels"):
        compare_runs({"a-0": summary(4, 2.0), "b-0": other}, ["a", "b"], [0], None)


def test_one_seed_has_no_interval():
    assert "one seed" in markdown(compare_runs({"a-0": summary(4, 2.0)}, ["a"], [0], None))


def test_finished_runs_stay_and_a_failed_one_is_named(tmp_path, monkeypatch):
    asked: list[str] = []

    def train(command: Sequence[str], log: Path) -> int:
        run_dir = Path(command[command.index("--out") + 1])
        asked.append(run_dir.name)
        if run_dir.name == "grpo-0" and len(asked) == 2:
            return 1
        run_dir.mkdir()
        (run_dir / "config.yaml").write_text(run_dir.with_suffix(".yaml").read_text())
        finish(run_dir, wins=len(run_dir.name), rl_seconds=6.0)
        return 0

    monkeypatch.setattr(compare, "run_process", train)
    matrix, out = write_matrix(tmp_path / "m.yaml", reference="grpo"), tmp_path / "out"
    with pytest.raises(RunError, match=r"grpo-0 ended with exit code 1: see .*grpo-0\.log"):
        run_compare(matrix, out, CONSOLE)
    assert not (out / "table.md").exists()
    comparison = run_compare(matrix, out, CONSOLE)
    assert asked == ["prism-0", "grpo-0", "grpo-0", "prism-1", "grpo-1"]
    assert run_compare(matrix, out, CONSOLE) == comparison and len(asked) == 5
    assert (out / "table.md").read_text() == markdown(comparison)
    for picture in ("success.svg", "seconds.svg"):
        ElementTree.parse(out / picture)
    other = write_matrix(tmp_path / "other.yaml", settings={"schedule": {"sft_steps": 9}})
    assert "| prism-0 | after grpo | base | 7 | 0 | 0.016 | +0.250 [+0.250, +0.250] |" in markdown(comparison)
    with pytest.raises(UserError, match="was trained by other settings"):
        run_compare(other, out, CONSOLE)


RUN = """
import pathlib, time
try:
    pathlib.Path({begun!r}).touch()
    time.sleep(60)  # a run that works until it is asked to stop
except KeyboardInterrupt:
    pathlib.Path({asked!r}).touch()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_no_run_outlives_the_comparison(tmp_path, number):
    """The run under way is asked to stop, whichever way the comparison is ended."""
    begun, asked = tmp_path / "begun", tmp_path / "asked"
    run = RUN.format(begun=str(begun), asked=str(asked))
    code = (
        "import sys; from pathlib import Path; from cluster.commands.compare import run_process;"
        f"sys.exit(run_process([sys.executable, '-c', {run!r}], Path({str(tmp_path / 'log')!r})))"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=REPO) as comparison:
        deadline = time.monotonic() + 60
        while not begun.exists():
            assert time.monotonic() < deadline, "the run had not begun after 60 s"
            time.sleep(0.05)
        (child,) = psutil.Process(comparison.pid).children()
        comparison.send_signal(number)
        assert comparison.wait(30) == compare.INTERRUPTED
    assert asked.exists() and not child.is_running()


@pytest.mark.real
@pytest.mark.timeout(900)
def test_two_arms_on_real_ray_and_vllm(tmp_path, tiny_model_dir):
    sections: dict[str, dict[str, object]] = {"policy": {"model": str(tiny_model_dir)}, "evaluation": {"stages": False}}
    for name, value in SETTINGS.items():
        section, _, key = name.partition(".")
        sections.setdefault(section, {})[key] = value
    sections["schedule"] |= {"sft_steps": 1, "grpo_steps": 1}
    matrix = write_matrix(tmp_path / "m.yaml", settings=sections, seeds=[0], reference="grpo")
    comparison = run_compare(matrix, tmp_path / "out", CONSOLE)
    prism, grpo = (comparison.runs[name] for name in ("prism-0", "grpo-0"))
    assert prism.seconds["probe"] > 0 and prism.seconds["sft"] > 0 and prism.seconds["evaluation"] > 0
    assert grpo.seconds["sft"] == 0 and grpo.tokens["sft"] == 0
    assert {rate.episodes for run in (prism, grpo) for rate in run.success.values()} == {2}
    assert comparison.arms[1].speedup == 1.0


@pytest.mark.parametrize(
    ("name", "steps", "arms"), [("prism-local", 20, 7), ("prism-share", 20, 3), ("maestro-local", 12, 9)]
)
def test_a_committed_matrix_gives_every_arm_as_many_learner_steps(name, steps, arms):
    matrix = load_matrix(REPO / "benchmarks" / f"{name}.yaml")
    taken = [config.schedule.sft_steps + config.schedule.grpo_steps for config in matrix.runs().values()]
    assert taken == [steps] * 3 * arms


def test_a_start_that_failed_does_not_hold_its_folder_against_a_corrected_matrix(tmp_path):
    wrong, corrected = (load_config("local", None, [f"learner.lr={rate}"]) for rate in (1, 2))
    save_config(wrong, tmp_path)
    compare.check_same(tmp_path, corrected, "m.yaml")
    (tmp_path / "checkpoints" / "step-000001").mkdir(parents=True)
    compare.check_same(tmp_path, wrong, "m.yaml")
    with pytest.raises(UserError, match="was trained by other settings"):
        compare.check_same(tmp_path, corrected, "m.yaml")


def test_a_run_that_was_stopped_has_a_curve_and_is_not_finished(tmp_path):
    (tmp_path / "learning_curve.svg").touch()
    assert not compare.is_finished(tmp_path)
    (tmp_path / "model").mkdir()
    assert compare.is_finished(tmp_path)
