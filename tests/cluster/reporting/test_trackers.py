"""Metrics in Weights & Biases and MLflow, by their real clients, which write to this disk here."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import pytest

from cluster.config.sections import TrackingSettings
from cluster.reporting import trackers
from cluster.reporting.metrics import MetricsWriter
from cluster.reporting.trackers import Trackers, check_trackers, open_trackers
from tests.cluster.runs import title
from trajectories.errors import UserError

CONFIG = {"seed": 3, "learner": {"lr": 0.001}, "tasks": ["alfworld"]}


@pytest.fixture(autouse=True)
def _on_this_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'mlflow'}")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    yield


def written(tmp_path: Path, settings: TrackingSettings, step: int, resumed: bool = False) -> str:
    """A record of one step, through the writer of a run; the id there."""
    run_dir = tmp_path / "first"
    run_dir.mkdir(exist_ok=True)
    opened = open_trackers(settings, run_dir, CONFIG, resumed, print)
    writer = MetricsWriter(run_dir, step, trackers=opened)
    writer.write(step, "grpo", {"success": step / 8, "reward/a{b}/mean": 0.5})
    writer.close()
    (found,) = json.loads((run_dir / "tracking.json").read_text()).values()
    return found


def test_wandb_gets_settings_and_steps_and_goes_on_with_a_resumed_run(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    settings = TrackingSettings(wandb="agents")
    name = written(tmp_path, settings, step=1)
    assert written(tmp_path, settings, step=2, resumed=True) == name
    assert written(tmp_path, settings, step=1) != name, "a run that begins anew is another"
    files = list((tmp_path / "first" / "wandb").glob(f"offline-run-*-{name}*/run-{name}.wandb"))
    recorded = b"".join(file.read_bytes() for file in files)
    assert b"grpo/success" in recorded and b"0.125" in recorded and b"0.25" in recorded
    assert b"learner" in recorded and b"0.001" in recorded
    left = [process for process in psutil.Process().children(recursive=True) if "wandb" in title(process)]
    assert not left, "its process ends with the run"


def test_mlflow_gets_settings_and_steps_and_goes_on_with_a_resumed_run(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    settings = TrackingSettings(mlflow="agents")
    name = written(tmp_path, settings, step=1)
    assert written(tmp_path, settings, step=2, resumed=True) == name
    client = mlflow.MlflowClient()
    run = client.get_run(name)
    assert run.data.params["learner.lr"] == "0.001" and run.info.status == "FINISHED"
    assert [(point.step, point.value) for point in client.get_metric_history(name, "grpo/success")] == [
        (1, 0.125),
        (2, 0.25),
    ]
    assert "grpo/reward/a_b_/mean" in run.data.metrics, "a name that MLflow refuses"


class Broken:
    """A service that is gone after its first step."""

    id = "x"

    def __init__(self, *arguments: object) -> None:
        self.steps = 0

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.steps += 1
        if self.steps > 1:
            raise ConnectionError("no route to the server\nand more")

    def close(self, failed: bool) -> None:
        raise AssertionError("what was let go of is not closed")


def test_a_service_that_fails_on_the_way_is_let_go_of_with_one_line(tmp_path: Path) -> None:
    said: list[str] = []
    writer = MetricsWriter(tmp_path, trackers=Trackers({"wandb": Broken()}, said.append))
    for step in (1, 2, 3):
        writer.write(step, "sft", {"sft/loss": 1.0})
    writer.close()
    assert len(said) == 1 and "wandb takes no more metrics (no route to the server)" in said[0]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


def test_a_service_that_does_not_take_the_run_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> Broken:
        raise PermissionError("api_key not configured")

    monkeypatch.setitem(trackers.TRACKERS, "wandb", refuse)
    with pytest.raises(UserError, match=r"wandb does not take the run \(api_key not configured\): log in"):
        open_trackers(TrackingSettings(wandb="agents"), tmp_path, CONFIG, False, print)
    assert not (tmp_path / "tracking.json").exists()


@pytest.mark.parametrize("text", ["", "{", "[1]", "\x00"])
def test_damaged_ids_of_a_resumed_run_are_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "tracking.json").write_text(text)
    with pytest.raises(UserError, match=r"tracking\.json.*remove it"):
        open_trackers(TrackingSettings(wandb="agents"), tmp_path, CONFIG, True, print)


def test_a_missing_client_is_named_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"tracking\.mlflow needs its client: pip install mlflow-skinny"):
        check_trackers(TrackingSettings(mlflow="agents"))
    check_trackers(TrackingSettings())
