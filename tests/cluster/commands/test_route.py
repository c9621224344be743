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
from router.tables import MEASURED
from trajectories.errors import UserError


def scores_file(path: Path, scores: list[list[float]], metric: str = "gini") -> Path:
    rows = [
        {"trajectory": f"e{number}", "tokens": 5, "trained_tokens": 2, "loss": float(number), "norms": norms}
        for number, norms in enumerate(scores)
    ]
    table = pa.Table.from_pylist(rows, schema=MEASURED).replace_schema_metadata({METRIC: metric.encode()})
    pq.write_table(table, path)
    return path


def test_routes_follow_the_scores_by_the_metric_that_made_them(tmp_path):
    norms = [[1.0, 1.0, 8.0], [1.0, 2.0, 3.0], [1.0, 1.0, 1.5], [0.1, 0.1, 9.0]]
    scores = scores_file(tmp_path / "scores.parquet", norms)
    routes = run_route(scores, "median_split", 0, tmp_path / "routes.parquet")
    assert routes["route"].to_pylist() == ["grpo", "sft", "sft", "grpo"]
    np.testing.assert_allclose(routes["score"].to_numpy(), gini(np.array(norms)).numpy())
    by_loss = run_route(scores, "loss", 0, tmp_path / "by_loss.parquet")
    assert by_loss["route"].to_pylist() == ["sft", "sft", "grpo", "grpo"]
    other = scores_file(tmp_path / "other.parquet", norms, metric="kurtosis")
    by_kurtosis = run_route(other, "median_split", 0, tmp_path / "by_kurtosis.parquet")
    np.testing.assert_allclose(by_kurtosis["score"].to_numpy(), kurtosis(np.array(norms)).numpy())


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
        run_route(scores, "median_split", 0, tmp_path / "routes.parquet")
    assert not (tmp_path / "routes.parquet").exists()


def test_what_is_no_scores_table_and_a_policy_that_needs_more_are_refused(tmp_path):
    pq.write_table(pa.table({"trajectory": ["a"]}), tmp_path / "x.parquet")
    with pytest.raises(UserError, match="lacks the column 'tokens'; give a file that `concerto probe` wrote"):
        run_route(tmp_path / "x.parquet", "median_split", 0, tmp_path / "routes.parquet")
    scores = scores_file(tmp_path / "scores.parquet", [[1.0, 2.0], [1.0, 3.0]])
    with pytest.raises(UserError, match="needs pass rates"):
        run_route(scores, "pass_rate", 0, tmp_path / "routes.parquet")
    with pytest.raises(UserError, match="exists: remove it"):
        run_route(scores, "loss", 0, scores)
    for policy in ("none", "chord"):
        with pytest.raises(UserError, match=f"--policy {policy} splits no corpus: choose median_split"):
            run_route(scores, policy, 0, tmp_path / "routes.parquet")
