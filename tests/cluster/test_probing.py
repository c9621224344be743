"""`concerto probe` and `concerto route`: on real Ray Data, stopped and resumed, and with bad input."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from cluster import probing
from cluster.errors import UserError
from learners.learner_config import PolicyConfig
from learners.policy.model import load_policy
from router import probe
from router.errors import DegenerateGradientError, RouterError
from router.geometry import gini, kurtosis
from router.tables import MEASURED
from tests.learners.samples import make_sequences
from trajectories.schema import sequences_to_table

CONSOLE = Console(quiet=True)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    sequences = [replace(s, episode_id=f"e{number // 2}") for number, s in enumerate(make_sequences(7, 1))]
    pq.write_table(sequences_to_table(sequences), tmp_path / "corpus.parquet")
    return tmp_path / "corpus.parquet"


def scores_file(path: Path, scores: list[list[float]], metric: str = "gini") -> Path:
    rows = [
        {"trajectory": f"e{number}", "tokens": 5, "trained_tokens": 2, "loss": float(number), "norms": norms}
        for number, norms in enumerate(scores)
    ]
    table = pa.Table.from_pylist(rows, schema=MEASURED).replace_schema_metadata({probing.METRIC: metric.encode()})
    pq.write_table(table, path)
    return path


@pytest.mark.real
def test_a_stopped_probe_goes_on_and_gives_the_scores_of_the_reference(
    corpus, tiny_model_dir, ray_session, tmp_path, monkeypatch
):
    monkeypatch.setattr(probing, "ray_cluster", lambda placement: nullcontext())  # the shared session is open already
    out = tmp_path / "scores.parquet"
    model = str(tiny_model_dir)
    sequences = [replace(s, episode_id=f"e{number // 2}") for number, s in enumerate(make_sequences(7, 1))]
    reference = probe.sequential(load_policy(PolicyConfig(model=model), seed=0), sequences)
    parts = probing._open_parts(out, probing.ProbeJob(model, str(corpus), 7))
    pq.write_table(probing.tables.probed(reference.take([0, 1, 2]), sequences[:3]), parts / "000000.parquet")
    probed, write = [], probing._write
    monkeypatch.setattr(probing, "_write", lambda path, table: (probed.append(table.num_rows), write(path, table)))

    scores = probing.run_probe(model, corpus, "gini", out, 1, 64, None, CONSOLE)
    assert sum(probed[:-1]) == 4, "what was done before is not done again"
    assert scores["trajectory"].to_pylist() == ["e0", "e1", "e2", "e3"]
    expected = np.stack([reference.norms[[at, at + 1]].double().mean(0).numpy() for at in (0, 2, 4)])
    np.testing.assert_allclose(np.stack(scores["norms"].to_numpy())[:3], expected, rtol=1e-4)
    np.testing.assert_allclose(scores["score"].to_numpy()[:3], gini(expected).numpy(), rtol=1e-3)
    assert not parts.exists() and pq.read_table(out).equals(scores)


def test_routes_follow_the_scores_by_the_metric_that_made_them(tmp_path):
    norms = [[1.0, 1.0, 8.0], [1.0, 2.0, 3.0], [1.0, 1.0, 1.5], [0.1, 0.1, 9.0]]
    scores = scores_file(tmp_path / "scores.parquet", norms)
    routes = probing.run_route(scores, "median_split", 0, tmp_path / "routes.parquet")
    assert routes["route"].to_pylist() == ["grpo", "sft", "sft", "grpo"]
    np.testing.assert_allclose(routes["score"].to_numpy(), gini(np.array(norms)).numpy())
    by_loss = probing.run_route(scores, "loss", 0, tmp_path / "by_loss.parquet")
    assert by_loss["route"].to_pylist() == ["sft", "sft", "grpo", "grpo"]
    other = scores_file(tmp_path / "other.parquet", norms, metric="kurtosis")
    by_kurtosis = probing.run_route(other, "median_split", 0, tmp_path / "by_kurtosis.parquet")
    np.testing.assert_allclose(by_kurtosis["score"].to_numpy(), kurtosis(np.array(norms)).numpy())


def test_a_corpus_that_cannot_be_probed_is_refused_and_nothing_is_written(tmp_path, tiny_model_dir):
    silent = replace(make_sequences(1)[0], trained=np.zeros(len(make_sequences(1)[0].trained), np.bool_))
    pq.write_table(sequences_to_table([]), tmp_path / "empty.parquet")
    pq.write_table(sequences_to_table([silent]), tmp_path / "silent.parquet")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "other.parquet")
    (tmp_path / "text.parquet").write_text("no parquet")
    before = sorted(tmp_path.iterdir())
    for name, message in {
        "empty": "nothing to probe",
        "silent": "trajectory s0 has no trained token",
        "other": "lacks the column 'sequence_id'",
        "text": "cannot read the corpus",
        "nowhere": "cannot read the corpus",
    }.items():
        with pytest.raises((RouterError, UserError), match=message):
            probing.run_probe(
                str(tiny_model_dir), tmp_path / f"{name}.parquet", "gini", tmp_path / "x", 1, 64, None, CONSOLE
            )
    assert sorted(tmp_path.iterdir()) == before


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
    with pytest.raises(RouterError, match=message):
        probing.run_route(scores, "median_split", 0, tmp_path / "routes.parquet")
    assert not (tmp_path / "routes.parquet").exists()


def test_what_is_no_scores_table_and_a_policy_that_needs_more_are_refused(tmp_path):
    pq.write_table(pa.table({"trajectory": ["a"]}), tmp_path / "x.parquet")
    with pytest.raises(RouterError, match="lacks the column 'tokens'; give a file that `concerto probe` wrote"):
        probing.run_route(tmp_path / "x.parquet", "median_split", 0, tmp_path / "routes.parquet")
    scores = scores_file(tmp_path / "scores.parquet", [[1.0, 2.0], [1.0, 3.0]])
    with pytest.raises(RouterError, match="needs pass rates"):
        probing.run_route(scores, "pass_rate", 0, tmp_path / "routes.parquet")
    with pytest.raises(UserError, match="exists: remove it"):
        probing.run_route(scores, "loss", 0, scores)
    for policy in ("none", "chord"):
        with pytest.raises(UserError, match=f"--policy {policy} splits no corpus: choose median_split"):
            probing.run_route(scores, policy, 0, tmp_path / "routes.parquet")


def test_a_probe_whose_gradient_is_broken_writes_no_scores(tmp_path):
    probed = pa.Table.from_pylist(
        [
            {"sequence_id": name, "trajectory": name, "tokens": 3, "trained_tokens": 1, "loss": 1.0, "norms": norms}
            for name, norms in (("a", [1.0, 2.0]), ("b", [float("inf"), 1.0]))
        ],
        schema=probing.tables.PROBED,
    )
    with pytest.raises(DegenerateGradientError, match="trajectory b has a gradient that is not finite"):
        probing._scored(probed, "gini")


def test_parts_of_another_probe_are_refused(tmp_path, corpus, tiny_model_dir):
    probing._open_parts(tmp_path / "scores.parquet", probing.ProbeJob("other", str(corpus), 7))
    with pytest.raises(UserError, match="holds parts of another probe: remove it"):
        probing.run_probe(str(tiny_model_dir), corpus, "gini", tmp_path / "scores.parquet", 1, 64, None, CONSOLE)
