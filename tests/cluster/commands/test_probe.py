"""`concerto probe`: on real Ray Data, stopped and resumed, and with bad input."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console

from cluster.commands import probe
from cluster.inputs.probe_cache import ProbeCache, trajectory_key
from learners.learner_settings import LearnerSettings, PolicySettings
from learners.policy.loading import load_policy
from learners.workers.worker import LearnerWorker
from router import tables
from router.geometry import gini
from router.probe import sequential
from router.router_settings import RouterSettings
from tests.learners.samples import make_sequences
from trajectories.errors import UserError
from trajectories.schema import sequences_from_table, sequences_to_table

CONSOLE = Console(quiet=True)
EXACTLY = RouterSettings(token_budget=64, precision="policy")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    sequences = [replace(s, episode_id=f"e{number // 2}") for number, s in enumerate(make_sequences(7, 1))]
    pq.write_table(sequences_to_table(sequences), tmp_path / "corpus.parquet")
    return tmp_path / "corpus.parquet"


@pytest.mark.real
def test_a_stopped_probe_goes_on_and_gives_the_scores_of_the_reference(
    corpus, tiny_model_dir, ray_session, tmp_path, monkeypatch
):
    monkeypatch.setattr(probe, "ray_cluster", lambda placement: nullcontext())  # the shared session is open already
    out = tmp_path / "scores.parquet"
    model = str(tiny_model_dir)
    sequences = [replace(s, episode_id=f"e{number // 2}") for number, s in enumerate(make_sequences(7, 1))]
    reference = sequential(load_policy(PolicySettings(model=model), 0, torch.device("cpu")), sequences)
    parts = probe._open_parts(out, probe.ProbeJob(model, str(corpus), 4, "policy"))
    done = probe.tables.measured(reference.arranged(sequences[:2]), sequences[:2])
    pq.write_table(done, parts / "000000.parquet")
    probed, write = [], probe.write_parquet
    monkeypatch.setattr(probe, "write_parquet", lambda path, table: (probed.append(table.num_rows), write(path, table)))

    scores = probe.run_probe(model, corpus, EXACTLY, out, probe.Workers(), CONSOLE)
    assert sum(probed[:-1]) == 3, "what was done before is not done again"
    assert scores["trajectory"].to_pylist() == ["e0", "e1", "e2", "e3"]
    expected = reference.norms.double().numpy()
    np.testing.assert_allclose(np.stack(scores["norms"].to_numpy()), expected, rtol=1e-4)
    np.testing.assert_allclose(scores["score"].to_numpy(), gini(expected).numpy(), rtol=1e-3)
    assert not parts.exists() and pq.read_table(out).equals(scores)


@pytest.mark.real
def test_a_sampled_probe_measures_what_a_run_measures_and_shares_its_cache(
    corpus, tiny_model_dir, ray_session, tmp_path, monkeypatch
):
    monkeypatch.setattr(probe, "ray_cluster", lambda placement: nullcontext())
    settings = RouterSettings(
        token_budget=64, precision="policy", sample_layers=1, sketch=3, cache=str(tmp_path / "cache")
    )
    worker = LearnerWorker(LearnerSettings(policy=PolicySettings(model=str(tiny_model_dir))))
    probing, table = settings.probing(alone=True), pq.read_table(corpus)
    sequences = sequences_from_table(table)
    in_a_run = tables.measured(worker.probe(table, probing), sequences)

    scores = probe.run_probe(str(tiny_model_dir), corpus, settings, tmp_path / "a.parquet", probe.Workers(), CONSOLE)
    assert {len(norms) for norms in scores["norms"].to_pylist()} == {7}, "of one layer"
    np.testing.assert_allclose(*(np.stack(one["norms"].to_numpy()) for one in (scores, in_a_run)), rtol=1e-4)
    cache = ProbeCache(tmp_path / "cache", worker.fingerprint(probing), print)
    owned = {name: [one for one in sequences if one.episode_id == name] for name in scores["trajectory"].to_pylist()}
    keys = [trajectory_key(mine) for mine in owned.values()]
    assert cache.table(list(owned), keys).equals(scores.select(tables.MEASURED.names).replace_schema_metadata(None))

    def nothing_to_do(*arguments: object, **options: object) -> None:
        raise AssertionError("everything is in the cache")

    monkeypatch.setattr(probe.ray.data, "from_items", nothing_to_do)
    again = probe.run_probe(str(tiny_model_dir), corpus, settings, tmp_path / "b.parquet", probe.Workers(), CONSOLE)
    assert again.equals(scores)


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
        "text": r"cannot read .*text\.parquet",
        "nowhere": r"cannot read .*nowhere\.parquet",
    }.items():
        with pytest.raises(UserError, match=message):
            probe.run_probe(
                str(tiny_model_dir), tmp_path / f"{name}.parquet", EXACTLY, tmp_path / "x", probe.Workers(), CONSOLE
            )
    assert sorted(tmp_path.iterdir()) == before


def test_rows_of_a_corpus_are_found_in_any_row_group(tmp_path):
    table = sequences_to_table(make_sequences(7, 1))
    pq.write_table(table, tmp_path / "corpus.parquet", row_group_size=3)
    rows = probe.CorpusRows(str(tmp_path / "corpus.parquet"))
    for some in ([0, 1], [2, 3, 6], [5], [0]):
        assert rows.take(some)["sequence_id"].to_pylist() == table["sequence_id"].take(some).to_pylist()


def test_norms_per_entry_are_a_metric_of_the_scores():
    norms, entries = [[1.0, 2.0], [4.0, 3.0]], [4, 16]
    rows = [
        {"trajectory": name, "tokens": 3, "trained_tokens": 1, "loss": 1.0, "norms": values, "entries": entries}
        for name, values in zip("ab", norms, strict=True)
    ]
    scores = probe._scored(pa.Table.from_pylist(rows, schema=probe.tables.MEASURED), "gini_per_entry")
    np.testing.assert_allclose(scores["score"].to_numpy(), gini(np.array(norms) / np.sqrt(entries)).numpy())


def test_a_probe_whose_gradient_is_broken_writes_no_scores(tmp_path):
    probed = pa.Table.from_pylist(
        [
            {"trajectory": name, "tokens": 3, "trained_tokens": 1, "loss": 1.0, "norms": norms}
            for name, norms in (("a", [1.0, 2.0]), ("b", [float("inf"), 1.0]))
        ],
        schema=probe.tables.MEASURED,
    )
    with pytest.raises(UserError, match="trajectory b has a gradient that is not finite"):
        probe._scored(probed, "gini")


def test_parts_of_another_probe_are_refused(tmp_path, corpus, tiny_model_dir):
    folder = probe._open_parts(tmp_path / "scores.parquet", probe.ProbeJob("other", str(corpus), 7))
    pq.write_table(pa.table({"sequence_id": ["a"]}), folder / "000000.parquet")
    with pytest.raises(UserError, match="holds parts of another probe: remove it"):
        probe.run_probe(str(tiny_model_dir), corpus, EXACTLY, tmp_path / "scores.parquet", probe.Workers(), CONSOLE)


def test_parts_measured_in_another_way_are_refused(tmp_path, corpus, tiny_model_dir):
    """A sketch in one half of the scores would move the split."""
    out, job = tmp_path / "scores.parquet", probe.ProbeJob(str(tiny_model_dir), str(corpus), 4, "policy")
    folder = probe._open_parts(out, job)
    pq.write_table(pa.table({"sequence_id": ["a"]}), folder / "000000.parquet")
    assert probe._open_parts(out, job) == folder, "and another token budget is the same way"
    for other in ({"precision": "fast"}, {"sketch": 4}, {"sample_layers": 1}):
        settings = EXACTLY.model_copy(update=other)
        with pytest.raises(UserError, match="holds parts of another probe: remove it"):
            probe.run_probe(str(tiny_model_dir), corpus, settings, out, probe.Workers(), CONSOLE)


def test_a_damaged_part_is_probed_again_and_the_others_stay(tmp_path):
    table, said = pa.table({"trajectory": ["a", "b"]}), []
    for number in range(3):
        pq.write_table(table, tmp_path / f"{number:06d}.parquet")
    middle = tmp_path / "000001.parquet"
    middle.write_bytes(middle.read_bytes()[:-20])
    assert probe._drop_damaged(tmp_path, said.append) == 4
    assert len(said) == 1 and str(middle) in said[0]
    assert probe._free_part(tmp_path) == middle, "no part that is there is written over"
    pq.write_table(table, middle)
    assert probe._free_part(tmp_path).name == "000003.parquet"


def test_a_probe_that_failed_before_its_first_part_blocks_nothing(tmp_path):
    out, other = tmp_path / "scores.parquet", probe.ProbeJob("other", "corpus", 7)
    folder = probe._open_parts(out, probe.ProbeJob("model", "corpus", 7))
    assert probe._open_parts(out, other) == folder
    pq.write_table(pa.table({"sequence_id": ["a"]}), folder / "000000.parquet")
    assert probe._open_parts(out, other) == folder
    (folder / "job.json").write_text('{"model": "oth')
    with pytest.raises(UserError, match=r"cannot read .*job\.json .*: remove .*scores\.parquet\.parts"):
        probe._open_parts(out, other)
