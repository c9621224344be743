"""Metrics: one JSON line a step; a resumed run replaces the lines of the steps that it repeats."""

import math
from typing import ClassVar

import pytest

from cluster.reporting.metrics import MetricsWriter, read_metrics
from trajectories.errors import StorageError


def test_lines_after_the_resumed_step_are_replaced(tmp_path):
    writer = MetricsWriter(tmp_path)
    for step in (1, 2, 3):
        writer.write(step, "grpo", {"sft/loss": float(step)})
    writer.close()
    resumed = MetricsWriter(tmp_path, from_step=3)
    resumed.write(3, "grpo", {"sft/loss": 30.0})
    resumed.close()
    assert [(record["step"], record["sft/loss"]) for record in read_metrics(tmp_path)] == [
        (1, 1.0),
        (2, 2.0),
        (3, 30.0),
    ]
    assert list((tmp_path / "tensorboard").iterdir())


def test_no_file_means_no_records(tmp_path):
    assert read_metrics(tmp_path) == []


def test_a_torn_last_line_is_cut_off_on_resume_in_one_line(tmp_path):
    writer = MetricsWriter(tmp_path)
    for step in (1, 2, 3):
        writer.write(step, "grpo", {"sft/loss": float(step)})
    writer.close()
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2]
    said: list[str] = []
    MetricsWriter(tmp_path, from_step=4, say=said.append).close()
    assert said == [f"the last line of {path} was torn and is cut off"]
    MetricsWriter(tmp_path, from_step=4, say=said.append).close()
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2] and len(said) == 1


def test_a_full_disk_ends_the_run_in_its_own_words(tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    writer = MetricsWriter(tmp_path / "elsewhere")
    writer._path = tmp_path / "metrics.jsonl"
    with pytest.raises(StorageError, match=r"cannot write .*metrics\.jsonl .*[Nn]o space left"):
        writer.write(1, "grpo", {"sft/loss": 1.0})


class Gauge:
    """Ray's, as a dictionary."""

    values: ClassVar[dict[tuple[str, ...], float]] = {}

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
        assert description
        self.name, self.tag_keys = name, tag_keys

    def set(self, value: float, tags: dict[str, str]) -> None:
        assert set(tags) == set(self.tag_keys)
        self.values[self.name, *tags.values()] = value


def test_ray_shows_the_last_record_and_nothing_that_it_does_not_have(tmp_path, monkeypatch):
    monkeypatch.setattr("ray.util.metrics.Gauge", Gauge)
    monkeypatch.setattr(Gauge, "values", {})
    (tmp_path / "one").mkdir()
    writer = MetricsWriter(tmp_path / "one", ray_metrics=True)
    writer.write(1, "sft", {"lr": 0.1})
    writer.write(2, "grpo", {"lr": 0.2, "success/webshop": 0.5})
    writer.write(3, "grpo", {"lr": 0.3, "described nowhere": 1.0})
    writer.close()
    values = {key: value for key, value in Gauge.values.items() if key[0] != "concerto_time_seconds"}
    assert {key for key, value in values.items() if math.isnan(value)} == {
        ("concerto_step", "one", "sft"),
        ("concerto_lr", "one", "sft"),
        ("concerto_success_by_environment_ratio", "one", "grpo", "webshop"),
    }
    assert {key: value for key, value in values.items() if not math.isnan(value)} == {
        ("concerto_step", "one", "grpo"): 3,
        ("concerto_lr", "one", "grpo"): 0.3,
    }
