"""A real run whose stages are epochs over what a sketched probe routed, and an arm beside it that shares the probe."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from cluster.reporting.metrics import read_metrics
from tests.cluster.runs import RunProcess, train_arguments, trained_tasks
from trajectories.ids import demonstrated_task

pytestmark = [pytest.mark.real, pytest.mark.timeout(1500)]

EPOCHS = {
    "schedule__sft_steps": 0,
    "schedule__sft_epochs": 2,
    "schedule__grpo_steps": 0,
    "schedule__grpo_epochs": 1,
    "evaluation__panels": "[]",
    "router__sketch": 4,
}


def arm(folder: Path, model: Path, policy: str) -> tuple[Path, str]:
    """The directory of a complete run, and what it said."""
    changes: dict[str, Any] = EPOCHS | {"router__policy": policy, "router__cache": folder / "cache"}
    log, run_dir = folder / f"{policy}.log", folder / policy
    with RunProcess(train_arguments(run_dir, model, **changes), log) as run:
        assert run.wait() == 0, run.log()
    return run_dir, log.read_text()


def test_two_arms_of_epochs_train_opposite_halves_after_one_probe(tmp_path, tiny_model_dir):
    halves, written = [], []
    for policy in ("median_split", "inverse"):
        run_dir, said = arm(tmp_path, tiny_model_dir, policy)
        routes = pq.read_table(run_dir / "routes.parquet").to_pylist()
        explored = {demonstrated_task(row["trajectory"])[1] for row in routes if row["route"] == "grpo"}
        assert len(explored) == 4 and Counter(trained_tasks(run_dir)) == dict.fromkeys(explored, 1)
        steps = [record for record in read_metrics(run_dir) if record["step"]]
        assert [record["stage"] for record in steps] == ["sft", "sft", "grpo", "grpo"]
        assert sum(record["sft/sequences"] for record in steps[:2]) == 2 * 4, "four are imitated, twice"
        assert "cost: " in said and "sft " in said.partition("cost: ")[2] and "grpo " in said.partition("cost: ")[2]
        halves.append(explored)
        (cache,) = (tmp_path / "cache").glob("*.parquet")
        written.append((cache.stat().st_mtime_ns, pq.read_metadata(cache).num_rows))
    assert halves[0].isdisjoint(halves[1])
    assert written[0] == written[1] and written[0][1] == 8, "the second arm probed nothing"
