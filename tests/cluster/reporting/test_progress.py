"""What the observer says of a step."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from cluster.reporting.entropy import EntropyWatch
from cluster.reporting.metrics import MetricsWriter
from cluster.reporting.progress import RunObserver


def spoken(watch: EntropyWatch, entropies: list[float | None]) -> list[bool]:
    return [watch.observe({} if value is None else {"grpo/entropy": value}) is not None for value in entropies]


def test_a_fall_below_the_floor_is_told_once() -> None:
    values = [0.9, 0.4, None, 0.3, 0.6, 0.4, 0.4]
    assert spoken(EntropyWatch(0.5), values) == [False, True, False, False, False, True, False]


def test_without_a_floor_nothing_is_told() -> None:
    assert spoken(EntropyWatch(0.0), [0.9, 0.0]) == [False, False]


@pytest.mark.parametrize("setting", ["grpo.entropy_weight", "grpo.clip_high", "schedule.temperature"])
def test_the_run_says_which_settings_help(tmp_path: Path, setting: str) -> None:
    file = io.StringIO()
    console = Console(file=file, width=400)
    with RunObserver(console, MetricsWriter(tmp_path), EntropyWatch(0.5)) as observer:
        observer.step(1, "grpo", {"grpo/entropy": 0.8})
        assert setting not in file.getvalue()
        observer.step(2, "grpo", {"grpo/entropy": 0.2})
    assert setting in file.getvalue() and "0.2 nats" in file.getvalue()
