"""`concerto top` of runs at different moments."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cluster.commands.top import picture, show_top, sparkline
from cluster.loop.ports import GroupTask
from cluster.reporting.report.runs import read_runs
from tests.cluster.simulation import trajectory
from trajectories.errors import UserError
from trajectories.schema import to_tables
from trajectories.store import TrajectoryStore

TASK = GroupTask("grpo-1", "alfworld", "train/pick_heat-Egg/trial_1", (0, 1), 1.0, "train")


def run_folder(folder: Path, records: list[dict[str, Any]]) -> Path:
    folder.mkdir()
    (folder / "config.yaml").write_text("schedule: {sft_steps: 2, grpo_steps: 20}\n")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def sft(step: int) -> dict[str, Any]:
    return {"step": step, "stage": "sft", "time": 100.0 + step, "sft/loss": 1.0 / step, "trained_tokens": 10}


def grpo(step: int, success: float) -> dict[str, Any]:
    played = {"episodes": 8, "success": success, "turns": 5.0, "trained_tokens": 20}
    return {
        "step": step,
        "stage": "grpo",
        "time": 100.0 + step,
        "step_s": 6.0,
        "seconds": 3.0,
        "waited_s": 2.4,
    } | played


def seen(folder: Path, now: float = 112.0) -> str:
    console = Console(file=StringIO(), width=100)
    (run,) = read_runs([folder])
    console.print(picture(run, now))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_a_run_under_way_says_where_it_is_and_where_its_time_goes(tmp_path: Path) -> None:
    steps = [sft(1), sft(2), *(grpo(2 + at, at / 10) for at in range(1, 9))]
    text = seen(run_folder(tmp_path / "run", steps))
    assert "run: grpo, step 8 of 20 (10 in all), 2 s ago, 1 min to the end of the stage" in text
    (line,) = (line for line in text.splitlines() if line.startswith("success"))
    assert line.split() == ["success", "0.8", "0.45", "▁▂▃▄▅▆▇█"], "now, on average, and as it came"
    assert "SFT loss" not in text, "of a stage that is over"
    assert "time: learner 50%, waiting 40%, publishing and the rest 10%, 80 episodes a minute" in text
    assert "The run is not finished: its last step so far is 10." in text


def test_the_last_episode_is_told(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", [grpo(1, 0.5)])
    one = trajectory(TASK, 0, version=0)
    TrajectoryStore(folder / "trajectories").write(0, *to_tables([one]))
    assert f"last episode: {one.episode.environment}, {one.episode.task_id}:" in seen(folder)


def test_a_run_that_has_done_no_step_says_so(tmp_path: Path) -> None:
    assert seen(run_folder(tmp_path / "run", [])) == "run: no step is done yet.\n"


def test_a_number_that_is_not_finite_is_left_out(tmp_path: Path) -> None:
    text = seen(run_folder(tmp_path / "run", [grpo(1, float("nan")), grpo(2, 0.5)]))
    assert "success" in text and "nan" not in text


def test_where_the_output_is_no_terminal_it_is_shown_once(tmp_path: Path) -> None:
    console = Console(file=StringIO(), width=100)
    show_top(run_folder(tmp_path / "run", [sft(1)]), console)
    assert isinstance(console.file, StringIO)
    assert console.file.getvalue().count("run: sft, step 1 of 2") == 1


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no run"):
        show_top(tmp_path, Console())


def test_a_sparkline_of_equal_values_lies_flat() -> None:
    assert sparkline([3.0] * 4) == "▁▁▁▁"
