"""What a run needs of Ray: joined and left again, checked before anything starts, bounded in every wait."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

from cluster.config.loading import load_config
from cluster.config.sections import PlacementSettings
from cluster.loop.stream import RunError
from cluster.runtime import session
from cluster.runtime.placement import Node
from trajectories.errors import UserError

PLACEMENT = PlacementSettings(
    rollout_actors=2,
    rollout_cpus=2,
    rollout_gpus=0.5,
    environment_cpus=0.25,
    learner_cpus=4,
    learner_gpus=1,
    wait_s=0.05,
)
CONFIG = load_config("local").model_copy(update={"placement": PLACEMENT})


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> list[Node]:
    """What the cluster has; tests fill it."""
    free: list[Node] = []
    monkeypatch.setattr(session, "cluster_nodes", lambda: list(free))
    return free


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """How Ray was initialised and shut down."""
    calls: dict[str, Any] = {}
    monkeypatch.setattr(session.ray, "init", lambda **options: calls.update(options))
    monkeypatch.setattr(session.ray, "shutdown", lambda: calls.update(left=True))
    monkeypatch.setattr(session.os, "environ", dict(os.environ))
    session.os.environ.pop("RAY_ADDRESS", None)
    return calls


def test_actors_without_demands_are_told_with_their_places():
    assert session.companions(load_config("local")) == [("recorder", "beside rollout-0"), ("router", "any")]
    more = ["experience.enabled=true", "reward.scalariser=conductor"]
    names = [name for name, _ in session.companions(load_config("local", overrides=more))]
    assert names == ["recorder", "router", "conductor", "experience"]


def test_every_actor_has_a_demand_and_the_rollout_actors_come_first():
    """The recorder goes where the first bundle is: `beside_rollouts`."""
    assert [(demand.name, demand.cpus, demand.gpus) for demand in session.rollout_demands(PLACEMENT)] == [
        ("rollout-0", 2, 0.5),
        ("rollout-1", 2, 0.5),
        ("env-0", 0.25, 0),
    ]
    assert [(demand.name, demand.cpus, demand.gpus) for demand in session.learner_demands(PLACEMENT)] == [
        ("learner-0", 4, 1)
    ]


async def test_a_run_that_fits_starts_without_a_word(nodes):
    nodes += [Node("a", 5, 1), Node("b", 4, 1)]
    said: list[str] = []
    await session.check_resources(CONFIG, trains=True, say=said.append)
    assert said == []


async def test_a_run_that_does_not_fit_says_what_it_waits_for_and_ends_with_the_table(nodes):
    nodes += [Node("a", 5, 1)]
    said: list[str] = []
    with pytest.raises(UserError) as error:
        await session.check_resources(CONFIG, trains=True, say=said.append)
    assert said == ["waiting up to 0.05 s for resources for rollout-0, rollout-1"]
    first, heading, *rows = str(error.value).splitlines()
    assert first.startswith("2 of 4 actors fit on no node (4 CPUs and 1 GPUs too few): add nodes, or lower placement.*")
    assert heading.split() == ["node", "demanded", "CPU", "free", "CPU", "demanded", "GPU", "free", "GPU"]
    assert [row.split() for row in rows] == [
        ["a", "4.25", "5", "1", "1"],
        ["(rollout-0)", "2", "-", "0.5", "-"],
        ["(rollout-1)", "2", "-", "0.5", "-"],
    ]


async def test_an_evaluation_asks_for_no_learner(nodes):
    nodes += [Node("a", 5, 1)]
    await session.check_resources(CONFIG, trains=False, say=print)


async def test_each_replica_of_the_preference_model_is_counted_where_the_run_has_one(nodes):
    overrides = ["placement.preference_replicas=2", "placement.preference_gpus=0.5", "placement.wait_s=0.05"]
    assert not [demand for demand in session.run_demands(load_config("local", None, overrides)) if demand.gpus]
    config = load_config("local", None, [*overrides, "reward.preference_model=org/model"])
    assert [(demand.name, demand.cpus, demand.gpus) for demand in session.preference_demands(config)] == [
        ("preference-0", 0.25, 0.5),
        ("preference-1", 0.25, 0.5),
    ]
    nodes += [Node("a", 8, 0.5)]
    with pytest.raises(UserError, match=r"^1 of 5 actors fit on no node \(0.25 CPUs and 0.5 GPUs too few\)") as error:
        await session.check_resources(config, trains=True, say=print)
    assert "(preference-1)" in str(error.value)
    await session.check_resources(config, trains=False, say=print)
    nodes += [Node("b", 8, 0.5)]
    await session.check_resources(config, trains=True, say=print)


async def test_room_that_others_took_is_waited_for_a_bounded_time():
    class Group:
        async def ready(self) -> None:
            await asyncio.Event().wait()

    with pytest.raises(RunError, match=r"was not free within 0\.02 s, since others took it: `concerto plan` shows"):
        await session._reserved(Group(), 0.02)


def test_without_an_address_a_private_cluster_is_started_and_left(ray):
    with session.ray_cluster(PlacementSettings()):
        assert (ray["address"], "left" in ray) == ("local", False)
    assert ray["left"]


def test_the_cluster_of_the_settings_comes_before_that_of_the_job(ray):
    session.os.environ["RAY_ADDRESS"] = "job:1"
    with session.ray_cluster(PlacementSettings()):
        assert ray["address"] == "job:1"
    with session.ray_cluster(PlacementSettings(address="mine:2")):
        assert ray["address"] == "mine:2"


def test_the_cluster_is_left_when_the_run_fails(ray):
    with pytest.raises(RunError), session.ray_cluster(PlacementSettings()):
        raise RunError("broken")
    assert ray["left"]


@pytest.mark.parametrize(
    ("variable", "address", "line"),
    [
        (
            None,
            "head:1",
            "no Ray cluster at head:1 (nobody listens): start one with `ray start --head`, or leave out plac",
        ),
        (
            "of:2",
            "head:1",
            "no Ray cluster at head:1 (nobody listens): start one with `ray start --head`, or leave out pl",
        ),
        (
            "of:2",
            None,
            "no Ray cluster at of:2 (nobody listens): start one with `ray start --head`, or unset RAY_ADDRESS",
        ),
        (
            "http://of:2",
            None,
            "no Ray cluster at http://of:2 (that is a dashboard, which `concerto submit` takes; a clust",
        ),
        (None, None, "Ray does not start on this machine (nobody listens): `concerto doctor` looks for the cause"),
    ],
)
def test_a_cluster_that_is_not_there_is_named_with_the_fix(
    ray, monkeypatch, variable: str | None, address: str | None, line: str
) -> None:
    def refuse(**options: Any) -> None:
        raise ConnectionError("nobody listens\nat all")

    monkeypatch.setattr(session.ray, "init", refuse)
    if variable is not None:
        session.os.environ["RAY_ADDRESS"] = variable
    with pytest.raises(UserError) as refusal, session.ray_cluster(PlacementSettings(address=address)):
        pass
    assert str(refusal.value).startswith(line) and "\n" not in str(refusal.value)
    assert "left" in ray


@pytest.mark.parametrize(
    ("preset", "overrides", "workers"),
    [
        ("local", [], 1),
        ("gpu", ["placement.rollout_gpus=0.5"], 1),
        ("cluster", ["placement.rollout_gpus=1"], 1),
        ("cluster", ["placement.rollout_gpus=4"], 4),
        ("cluster", ["placement.rollout_gpus=4", "rollout.engine.tensor_parallel=4"], 4),
        ("local", ["rollout.engine.tensor_parallel=2"], 2),
    ],
)
def test_an_engine_has_a_worker_for_each_of_its_gpus(preset, overrides, workers):
    config = load_config(preset, None, overrides)
    assert config.fitted_rollout.engine.tensor_parallel == workers
    assert {demand.gpus for demand in session.rollout_demands(config.placement) if "rollout" in demand.name} == {
        config.placement.rollout_gpus
    }


@pytest.mark.parametrize("gpus", [0.5, 1, 4])
def test_workers_without_a_gpu_of_their_own_are_refused(gpus):
    overrides = [f"placement.rollout_gpus={gpus}", "rollout.engine.tensor_parallel=2"]
    with pytest.raises(UserError, match=r"tensor_parallel 2 does not go with .*: leave it out, and set .*gpus=2\.$"):
        load_config("cluster", None, overrides)


def test_engines_play_in_the_precision_and_with_the_adapters_of_the_policy():
    config = load_config("local", overrides=["policy.dtype=bfloat16", "policy.lora.rank=4"])
    engine = config.fitted_rollout.engine
    assert engine.dtype == "bfloat16"
    assert engine.lora is not None and engine.lora.max_rank == 4
