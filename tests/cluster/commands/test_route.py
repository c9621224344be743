"""`concerto route`: splits by scores, and bad input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.commands.probe import METRIC
from cluster.commands.route import run_route
from router.geometry import gini, kurtosis
from router.router_settings import RouterSettings
from router.tables import MEASURED
from trajectories.errors import UserError
from trajectories.ids import demonstration_id


def scores_file(path: Path, scores: list[list[float]], metric: str = "gini", names: list[str] | None = None) -> Path:
    rows = [
        {
            "trajectory": names[number] if names else f"e{number}",
            "tokens": 5,
            "trained_tokens": 2,
            "loss": float(number),
            "norms": norms,
        }
        for number, norms in enumerate(scores)
    ]
    table = pa.Table.from_pylist(rows, schema=MEASURED).replace_schema_metadata({METRIC: metric.encode()})
    pq.write_table(table, path)
    return path


def test_routes_follow_the_scores_by_the_metric_that_made_them(tmp_path):
    norms = [[1.0, 1.0, 8.0], [1.0, 2.0, 3.0], [1.0, 1.0, 1.5], [0.1, 0.1, 9.0]]
    scores = scores_file(tmp_path / "scores.parquet", norms)
    routes = run_route(scores, RouterSettings(policy="median_split"), 0, tmp_path / "routes.parquet")
    assert routes["route"].to_pylist() == ["grpo", "sft", "sft", "grpo"]
    np.testing.assert_allclose(routes["score"].to_numpy(), gini(np.array(norms)).numpy())
    by_loss = run_route(scores, RouterSettings(policy="loss"), 0, tmp_path / "by_loss.parquet")
    assert by_loss["route"].to_pylist() == ["sft", "sft", "grpo", "grpo"]
    other = scores_file(tmp_path / "other.parquet", norms, metric="kurtosis")
    by_kurtosis = run_route(other, RouterSettings(policy="median_split"), 0, tmp_path / "by_kurtosis.parquet")
    np.testing.assert_allclose(by_kurtosis["score"].to_numpy(), kurtosis(np.array(norms)).numpy())


def test_the_share_and_the_thresholds_of_environments_are_those_of_a_run(tmp_path):
    norms = [[1.0, 1.0, 1.0 + number] for number in range(10)]
    names = [demonstration_id("shop" if number < 4 else "mock", f"t{number}") for number in range(10)]
    scores = scores_file(tmp_path / "scores.parquet", norms, names=names)
    for thresholds, imitated in (("corpus", [0, 1]), ("environment", [0, 4, 5])):
        router = RouterSettings.model_validate({"policy": "median_split", "share": 0.2, "thresholds": thresholds})
        routes = run_route(scores, router, 0, tmp_path / f"{thresholds}.parquet")["route"].to_pylist()
        assert [row for row, kind in enumerate(routes) if kind == "sft"] == imitated


@pytest.mark.parametrize(
    ("norms", "message"),
    [
        ([[1.0, 2.0]], "needs two trajectories or more, got 1"),
        ([[1.0, 2.0], [float("nan"), 1.0]], "trajectory e1 has a gradient that is not finite"),
        ([[1.0, 2.0], [0.0, 0.0]], "trajectory e1 has a gradient of zero"),
    ],
)
def test_scores_that_cannot_be_split_are_refused_and_nothing_is_written(tmp_path, norms, message):
    scores = scores_file(tmp_path / "scores.parquet", norms)
    with pytest.raises(UserError, match=message):
        run_route(scores, RouterSettings(policy="median_split"), 0, tmp_path / "routes.parquet")
    assert not (tmp_path / "routes.parquet").exists()


def test_what_is_no_scores_table_and_a_policy_that_needs_more_are_refused(tmp_path):
    pq.write_table(pa.table({"trajectory": ["a"]}), tmp_path / "x.parquet")
    with pytest.raises(UserError, match="lacks the column 'tokens': give a file that `concerto probe` wrote"):
        run_route(tmp_path / "x.parquet", RouterSettings(policy="median_split"), 0, tmp_path / "routes.parquet")
    scores = scores_file(tmp_path / "scores.parquet", [[1.0, 2.0], [1.0, 3.0]])
    with pytest.raises(UserError, match="needs pass rates"):
        run_route(scores, RouterSettings(policy="pass_rate"), 0, tmp_path / "routes.parquet")
    with pytest.raises(UserError, match="exists: remove it"):
        run_route(scores, RouterSettings(policy="loss"), 0, scores)
    for policy in ("none", "chord"):
        with pytest.raises(UserError, match=f"--policy {policy} splits no corpus: choose median_split"):
            run_route(scores, RouterSettings(policy=policy), 0, tmp_path / "routes.parquet")
