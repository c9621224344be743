"""A run on a cluster of several nodes, two of which die under it: that of the engines, then that of the learner."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from ray.cluster_utils import Cluster

from cluster.inputs.models import TINY
from cluster.reporting.metrics import read_metrics
from tests.cluster.runs import RunProcess, title, train_arguments, trained_tasks

pytestmark = [pytest.mark.real, pytest.mark.timeout(1500)]

GRPO_STEPS = 10
STORE = {"object_store_memory": 100 * 2**20, "include_dashboard": False}


@pytest.fixture
def nodes() -> Iterator[Cluster]:
    """A head that takes no actor, and four nodes of two CPUs: for the engines, the environments, the learner, and one
    more."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **STORE})
    for _ in range(4):
        cluster.add_node(num_cpus=2, **STORE)
    yield cluster
    cluster.shutdown()


def kill_node_of(kind: str, cluster: Cluster) -> None:
    """kill -9 of the node on which an actor is, by the class name in its title, and of all its processes."""

    def has_it(node: object) -> bool:
        (raylet,) = node.all_processes["raylet"]  # type: ignore[attr-defined]
        return any(f"ray::{kind}" in title(below) for below in psutil.Process(raylet.process.pid).children())

    victim = next(node for node in cluster.worker_nodes if has_it(node))
    cluster.remove_node(victim, allow_graceful=False)


def test_a_run_outlives_the_nodes_of_its_engines_and_of_its_learner(tmp_path: Path, nodes: Cluster) -> None:
    changes = {
        "placement__address": nodes.address,
        "placement__rollout_actors": 2,
        "placement__rollout_cpus": 1,
        "placement__environment_cpus": 1,
        "placement__learner_cpus": 1,
        "placement__wait_s": 60,
        "schedule__grpo_steps": GRPO_STEPS,
        "evaluation__panels": "[]",
        "checkpoint__every": 2,
    }
    run_dir = tmp_path / "run"

    def has_done(steps: int) -> bool:
        return run_dir.exists() and any(record["step"] >= steps for record in read_metrics(run_dir))

    with RunProcess(train_arguments(run_dir, Path(TINY), **changes), tmp_path / "log") as run:
        run.wait_until("three GRPO steps", lambda: has_done(5))
        kill_node_of("RolloutActor", nodes)
        run.wait_until("two more", lambda: has_done(7))
        kill_node_of("RayTrainWorker", nodes)
        assert run.wait() == 0, run.log()
    trained = trained_tasks(run_dir)
    assert set(trained.values()) == {1} and len(trained) == 2 * GRPO_STEPS, "every task once, none left out"
    assert "Traceback" not in run.log() and "Going on from step" in run.log()
