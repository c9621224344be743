"""`concerto route`: splits by scores, and bad input."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.commands.route import Report, run_route
from cluster.inputs.probe_files import METRIC
from cluster.reporting.route_report import _heat_map, _histogram
from router.analysis import spearman
from router.geometry import gini, kurtosis
from router.router_settings import RouterSettings
from router.tables import MEASURED
from tests.router.samples import make_sequence
from trajectories.errors import UserError
from trajectories.ids import demonstration_id
from trajectories.schema import sequences_to_table
from trajectories.types import Route, Turn


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


def corpus_scores(path: Path, seed: int, count: int = 20) -> Path:
    """Two layers; the gradient of the upper half sits in the last matrix."""
    draw = np.random.default_rng(seed)
    norms = draw.uniform(1.0, 1.2, (count, 14))
    norms[count // 2 :, -1] += 5.0 + np.arange(count - count // 2)
    return scores_file(path, norms.tolist())


def test_the_report_is_one_page_that_needs_nothing_else(tmp_path):
    scores, other = corpus_scores(tmp_path / "a.parquet", 0), corpus_scores(tmp_path / "b.parquet", 1)
    sequences = sequences_to_table(
        replace(make_sequence(f"s{row}", 6, seed=row), episode_id=f"e{row}", turns=(Turn(1, 6, 0.0, 0, True),))
        for row in range(20)
        for _ in range(row + 1)
    )
    pq.write_table(sequences, tmp_path / "corpus.parquet")
    report = Report(tmp_path / "page.html", other, tmp_path / "corpus.parquet")
    run_route(scores, RouterSettings(policy="median_split"), 0, tmp_path / "routes.parquet", report)
    page = (tmp_path / "page.html").read_text()
    assert "10 to SFT (imitated), 10 to GRPO (explored)" in page
    assert page.count("<svg") == 3 and "http" not in page and "<script" not in page
    for column in ("tokens", "trained tokens", "loss", "turns"):
        assert f"<td>{column}</td>" in page
    concentration = gini(np.stack(pq.read_table(scores)["norms"].to_numpy())).tolist()
    ranked = spearman(*({str(row): value for row, value in enumerate(column)} for column in (concentration, range(20))))
    assert f"<td>turns</td><td>{ranked:+.2f}</td>" in page, "the corpus has one turn more with every row"
    assert f"<td>loss</td><td>{ranked:+.2f}</td>" in page
    assert "<td>sent the same way</td><td>100%</td>" in page and "by b.parquet" in page


def test_the_heat_map_shows_the_mean_share_of_each_matrix():
    shares = np.array([0.02] * 13 + [0.74])
    page = _heat_map(shares)
    assert page.count(">2.0%</text>") == 13 and page.count(">74.0%</text>") == 1
    assert [f">{name}</text>" in page for name in ("q", "k", "v", "o", "gate", "up", "down")] == [True] * 7
    assert page.index("layer 0") < page.index("layer 1") < page.index("74.0%")


def test_every_score_stands_in_one_bar_of_the_histogram():
    halves = {Route.SFT: np.arange(10) < 6, Route.GRPO: np.arange(10) >= 6}
    page = _histogram(list(np.linspace(0, 1, 10)), halves, [0.6])
    tall = sum(float(value) for value in re.findall(r'height="([\d.]+)" fill', page))
    assert tall == pytest.approx(10 * 150.0, abs=2.0), "the tallest bar holds one score"
    assert page.count("stroke-dasharray") == 1


def test_a_report_in_a_folder_and_one_that_is_there_already(tmp_path):
    scores = corpus_scores(tmp_path / "a.parquet", 0)
    run_route(scores, RouterSettings(policy="median_split"), 0, tmp_path / "r.parquet", Report(tmp_path / "page"))
    assert (tmp_path / "page" / "report.html").exists()
    with pytest.raises(UserError, match=r"report\.html exists: remove it, or name another --report"):
        run_route(scores, RouterSettings(policy="median_split"), 0, tmp_path / "s.parquet", Report(tmp_path / "page"))
    assert not (tmp_path / "s.parquet").exists()


def test_a_report_of_a_policy_without_scores_is_refused(tmp_path):
    scores = corpus_scores(tmp_path / "a.parquet", 0)
    with pytest.raises(UserError, match="this --policy compares nothing: leave --report out"):
        run_route(scores, RouterSettings(policy="sequential"), 0, tmp_path / "r.parquet", Report(tmp_path / "p.html"))
    assert not list(tmp_path.glob("[rp].*"))
