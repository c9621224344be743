"""Whole runs of `concerto train` on real Ray and real vLLM: to the end, through kills, and through an interruption."""

from __future__ import annotations

import json
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from cluster.inputs.models import TINY
from cluster.loop.checkpoint import load_manifest, sound_checkpoint
from cluster.reporting.best import read_best
from cluster.reporting.evaluation import run_evaluations
from cluster.reporting.metrics import read_metrics
from tests.cluster.runs import RunProcess, train_arguments, trained_tasks
from trajectories.schema import episodes_from_table
from trajectories.store import TrajectoryStore

pytestmark = [pytest.mark.real, pytest.mark.timeout(1500)]

GRPO_STEPS = 8
"""Enough for the kills and an interruption on the way."""
SAMPLES = 2
CONDUCTED = {"reward__scalariser": "conductor", "reward__conductor__update_every": 1}
ROUTED = {"router__policy": "median_split", "schedule__grpo_steps": GRPO_STEPS} | CONDUCTED
ROUTED |= {"evaluation__samples": SAMPLES}
GUARDED = "tests.cluster.guard"
STEPS = list(range(2 + GRPO_STEPS + 1))
"""Routing, two of SFT, then GRPO."""


@pytest.fixture(scope="module")
def beside() -> Iterator[ThreadPoolExecutor]:
    """Takes the runs that nobody disturbs, one after the other, while the first test kills another one again and again:
    that run waits for processes that start, and leaves one of two cores idle."""
    with ThreadPoolExecutor(max_workers=1) as queue:
        yield queue
        queue.shutdown(cancel_futures=True)


def complete(folder: Path, model: Path, changes: dict[str, Any]) -> Path:
    """A run to its end, whose coordinator never sees a sequences table; returns its directory."""
    run_dir = folder / "a run, für é"  # what stands in names of folders, and in none of Ray's
    with RunProcess(train_arguments(run_dir, model, **changes), folder / "log", GUARDED) as run:
        assert run.wait() == 0, run.log()
        run.assert_nothing_left()
    return run_dir


@pytest.fixture(scope="module")
def staged_run(beside, tmp_path_factory, tiny_model_dir) -> Future[Path]:
    return beside.submit(complete, tmp_path_factory.mktemp("staged"), tiny_model_dir, ROUTED)


@pytest.fixture(scope="module")
def mixed_run(beside, tmp_path_factory, tiny_model_dir) -> Future[Path]:
    steps = {"schedule__sft_steps": 0, "schedule__grpo_steps": 0, "schedule__mixed_steps": 2}
    changes = ROUTED | steps | {"router__mode": "online", "evaluation__panels": "[]"}
    return beside.submit(complete, tmp_path_factory.mktemp("mixed"), tiny_model_dir, changes)


@pytest.fixture(scope="module")
def mixture_run(beside, tmp_path_factory) -> Future[Path]:
    """Of the embedded model: pages of a shop are too long for the models that other tests make."""
    changes = {
        "tasks": "[alfworld,webshop]",
        "data__webshop": "generated",
        "schedule__grpo_steps": 1,
        "evaluation__limit": 1,
    }
    return beside.submit(complete, tmp_path_factory.mktemp("mixture"), Path(TINY), changes)


@pytest.mark.usefixtures("staged_run", "mixed_run", "mixture_run")  # under way beside it, in this order
def test_kills_and_an_interruption_change_no_task_and_resume_finishes(tmp_path, tiny_model_dir, staged_run):
    run_dir = tmp_path / "run"
    arguments = train_arguments(run_dir, tiny_model_dir, **ROUTED)
    with RunProcess(arguments, tmp_path / "log") as run:
        run.wait_until("the first GRPO step", lambda: len(read_metrics(run_dir)) >= 4)
        run.kill_actor("EnvironmentHost")
        run.kill_actor("RolloutActor")
        run.kill_actor("RouterActor")
        run.kill_actor("RecorderActor")
        run.wait_until("a GRPO step after the kills", lambda: len(read_metrics(run_dir)) >= 5)
        run.kill_actor("RayTrainWorker")
        run.wait_until("the restart from a checkpoint", lambda: "resuming after step" in run.log())
        run.kill_actor("ConductorActor")
        run.wait_until("the restart without Conductor", lambda: run.log().count("resuming after step") == 2)
        run.process.send_signal(signal.SIGINT)
        assert run.wait() == 130, run.log()
        assert "Traceback" not in run.log() and "Unhandled error" not in run.log()
        run.assert_nothing_left()
    assert load_manifest(sound_checkpoint(run_dir)[0]).step == read_metrics(run_dir)[-1]["step"]
    assert (run_dir / "learning_curve.svg").exists()

    with RunProcess([*arguments, "--resume"], tmp_path / "log-resumed", GUARDED) as resumed:
        assert resumed.wait() == 0, resumed.log()
        resumed.assert_nothing_left()
    finished_run = staged_run.result()
    assert trained_tasks(run_dir) == trained_tasks(finished_run)
    assert [row["route"] for row in _routes(run_dir)] == [row["route"] for row in _routes(finished_run)]
    for record in read_metrics(run_dir):
        if record["stage"] == "grpo":
            parts = ("groups_accepted", "groups_filtered", "groups_skipped", "groups_running")
            assert record["groups_submitted"] == sum(record[part] for part in parts)
    assert [record["step"] for record in read_metrics(run_dir)] == STEPS
    best = read_best(run_dir)
    assert best and best.success >= max(
        result.sampled.success.rate for (result,) in run_evaluations(run_dir).values() if result.sampled
    ), "also of evaluations that were played again"


def test_a_damaged_checkpoint_gives_way_to_the_one_before_it_and_the_same_tasks_are_trained(
    tmp_path, tiny_model_dir, staged_run
):
    finished_run, run_dir = staged_run.result(), tmp_path / "run"
    shutil.copytree(finished_run, run_dir)
    newest, _ = sound_checkpoint(run_dir)
    shard = next((newest / "learner" / "shards").iterdir())
    *content, last = shard.read_bytes()
    shard.write_bytes(bytes([*content, last ^ 1]))  # as a disk may return it: well formed, and wrong
    resuming = [*train_arguments(run_dir, tiny_model_dir, **ROUTED), "--resume"]
    with RunProcess(resuming, tmp_path / "log", GUARDED) as resumed:
        assert resumed.wait() == 0, resumed.log()
        resumed.assert_nothing_left()
    said = resumed.log().replace("\n", "")
    assert f"{newest.name} is damaged" in said and "resuming after step 2" in said
    assert trained_tasks(run_dir) == trained_tasks(finished_run)
    assert [record["step"] for record in read_metrics(run_dir)] == STEPS


def test_a_run_trains_evaluates_and_leaves_a_model(staged_run):
    finished_run = staged_run.result()
    records = read_metrics(finished_run)
    assert [record["step"] for record in records] == STEPS
    assert [record["stage"] for record in records] == ["routing"] + ["sft"] * 2 + ["grpo"] * GRPO_STEPS
    assert (records[0]["router/sft"], records[0]["router/grpo"]) == (4, 4) and records[0]["probe_s"] > 0
    explored = {row["trajectory"] for row in _routes(finished_run) if row["route"] == "grpo"}
    assert {f"demonstration/alfworld/{task}" for task in trained_tasks(finished_run)} == explored
    assert all(record["parity_error"] <= 1e-3 for record in records if record["stage"] == "grpo")
    assert set(run_evaluations(finished_run)) == {"base", "after_sft", "after_grpo"}
    for (result,) in run_evaluations(finished_run).values():
        assert result.sampled and {task.episodes for task in result.sampled.tasks} == {SAMPLES}
    best = read_best(finished_run)
    assert best and best.success == max(
        result.sampled.success.rate for (result,) in run_evaluations(finished_run).values() if result.sampled
    )
    assert sum(trained_tasks(finished_run).values()) == GRPO_STEPS * 2
    for folder in ("model", "best"):
        assert (finished_run / folder / "model.safetensors").exists()
        assert (finished_run / folder / "tokenizer.json").exists()
    assert (finished_run / "learning_curve.svg").read_text().startswith("<svg")
    assert json.loads((finished_run / "evaluations" / "base.json").read_text())["evaluations"][0]["panel_hash"]


def test_a_mixed_stage_is_routed_group_by_group(mixed_run):
    run_dir = mixed_run.result()
    records = read_metrics(run_dir)
    assert [sum(record[f"router/{kind}"] for kind in ("sft", "grpo", "unrouted")) for record in records] == [2, 2]
    probed = [record for record in records if record["router/unrouted"] < 2]
    assert probed, "some task has a demonstration"
    assert all(0 < record["probe_share"] < 1 for record in probed)
    assert all(record["sft/sequences"] == record["router/sft"] for record in records)
    store = TrajectoryStore(run_dir / "trajectories")
    tables = [store.read(number)[2] for number in range(len(store))]
    scores = [score for table in tables if table is not None for score in table["score"].to_pylist()]
    assert any(score is not None for score in scores)
    assert all("reward/action_validity/mean" in record for record in records)
    for name in ("router", "conductor"):
        assert (sound_checkpoint(run_dir)[0] / "learner" / f"{name}.safetensors").exists()


def _routes(run_dir: Path) -> list[dict[str, Any]]:
    return pq.read_table(run_dir / "routes.parquet").to_pylist()


def test_a_mixture_trains_two_environments_at_once(mixture_run):
    run_dir = mixture_run.result()
    assert [record["stage"] for record in read_metrics(run_dir)] == ["sft", "sft", "grpo"]
    assert {"success/alfworld", "success/webshop"} <= set(read_metrics(run_dir)[-1])
    for results in run_evaluations(run_dir).values():
        assert [result.panel for result in results] == ["alfworld/generated/heldout", "webshop/dev"]
        assert "score" in results[1].greedy.rewards
    episodes, *_ = TrajectoryStore(run_dir / "trajectories").read(0)
    groups = {(episode.environment, len(episode.rewards)) for episode in episodes_from_table(episodes)}
    assert groups == {("alfworld", 5), ("webshop", 9)}
    demonstrations = pq.read_table(run_dir / "demonstrations.parquet")["episode_id"].to_pylist()
    assert Counter(name.split("/")[1] for name in demonstrations) == {"alfworld": 4, "webshop": 4}
    manifest = load_manifest(sound_checkpoint(run_dir)[0])
    assert set(manifest.panels) == {"alfworld/generated/train", "webshop/train"}
