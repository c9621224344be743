"""`RayLearner`: what it keeps beside the workers' checkpoint, and how rewards and the Conductor take part in a step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray
import torch

from actors.conductor import RemoteConductor, start_conductor
from actors.group_references import GroupReferences, StepGroups
from actors.router import RouterActor
from cluster.config.loading import load_config
from cluster.inputs.reward_channels import open_channels
from cluster.loop.ports import GroupTask
from cluster.runtime.learner import RayLearner
from cluster.runtime.steps import (
    ConductedTraining,
    NothingToRead,
    OnlineRouting,
    PlainRouting,
    PlainTraining,
    PolicyReader,
    PreparedStep,
)
from cluster.runtime.weights import Publication
from learners.learner_settings import GRPOSettings
from learners.objectives import advantages
from learners.rewards.channels import Reading
from learners.rewards.reward_batch import ConstantWatch
from learners.rewards.reward_settings import ConductorSettings, RewardSettings
from learners.rewards.weigher import Weigher
from learners.tiny import embedded_model_path
from router.arbitration import RunningQuantile
from router.online import OnlineRouter
from router.scores import Candidates, Loss
from tests.cluster.simulation import trajectory
from trajectories.errors import UserError
from trajectories.schema import assignments_from_table, sequences_from_table, sequences_to_table, to_tables

CHANNELS, HIDDEN = ("success", "progress"), 4
FULL = Publication(adapters=False, timeout_s=1.0)


class Workers:
    """Write and read an empty folder; weigh rollouts whose terminal states are all alike."""

    async def call(self, method: str, *arguments: Any) -> list[Any]:
        if method == "begin_save":
            Path(arguments[0]).mkdir()
        if method == "train":
            return [{"trained_tokens": 9.0}]
        if method != "train_weighing":
            return [None]
        _, sequences, _, batch, scalarise = arguments
        rows = [row for table in ray.get(sequences) for row in sequences_from_table(table)]
        weigher = Weigher(ray.get(batch), scalarise, GRPOSettings())
        for group in weigher.together(rows):
            weigher.weigh([rows[index] for index in group], torch.ones(len(group), HIDDEN))
        return [({"trained_tokens": 9.0}, weigher.result())]

    async def call_refs(self, method: str, to_read: Any) -> list[Any]:
        """Read: every token is foreseen with certainty 1/2, from a distribution of entropy 0.3."""
        rows = sequences_from_table(ray.get(to_read))
        counts = [int(row.trained.sum()) for row in rows]
        halves = tuple(np.full(count, -np.log(2)) for count in counts)
        return [ray.put(Reading(halves, tuple(np.full(count, 0.3) for count in counts)))]


WORKERS: Any = Workers()
NO_DEMONSTRATIONS = sequences_to_table([])


def plain_routing(router: Any = None, reader: Any = None) -> PlainRouting:
    return PlainRouting(router, reader or NothingToRead(), NO_DEMONSTRATIONS)


def learner(router: Any, reader: Any = None, watch: ConstantWatch | None = None) -> RayLearner:
    return RayLearner(WORKERS, plain_routing(router, reader), PlainTraining(WORKERS, watch), FULL)


def conducted(router: Any, conductor: Any, config: ConductorSettings) -> RayLearner:
    remote, watch = RemoteConductor(conductor), ConstantWatch(limit=1000)
    training = ConductedTraining(WORKERS, remote, config, advantages.grpo, seed=0, watch=watch)
    return RayLearner(WORKERS, plain_routing(router), training, FULL)


def group(name: str, progress: tuple[float, ...]) -> GroupReferences:
    """References to a finished group in which nobody succeeds."""
    task = GroupTask(name, "mock", f"task-{name}", tuple(range(len(progress))), 1.0, "train")
    members = []
    for member, value in enumerate(progress):
        played = trajectory(task, member, version=0)
        rewards = {"success": 0.0, "progress": value}
        members.append(replace(played, episode=replace(played.episode, success=False, rewards=rewards)))
    episodes, sequences = to_tables(members)
    return GroupReferences(ray.put(episodes), ray.put(sequences))


@pytest.fixture
def start_router(ray_session: None) -> Iterator[Any]:
    started = []

    def start(reward: RewardSettings, channels: tuple[str, ...] = CHANNELS, unnamed: Any = None) -> Any:
        parts = (GRPOSettings(), reward, channels, 0, unnamed)
        started.append(ray.remote(RouterActor).options(num_cpus=0).remote(*parts))
        return started[-1]

    yield start
    for actor in started:
        ray.kill(actor)


async def test_a_restored_learner_routes_with_the_scores_of_before(tmp_path):
    arbiter = RunningQuantile(Loss())
    arbiter.decide(Candidates(("a", "b"), ("mock",) * 2, losses=torch.tensor([1.0, 2.0])))
    saved = OnlineRouter(arbiter, steps=7)
    before, after = (
        OnlineRouting(plain_routing(), WORKERS, memory, probing=None, demonstrations=None)
        for memory in (saved, OnlineRouter(RunningQuantile(Loss())))
    )
    await RayLearner(WORKERS, before, PlainTraining(WORKERS, None), FULL).begin_save(tmp_path / "learner")
    await RayLearner(WORKERS, after, PlainTraining(WORKERS, None), FULL).restore(tmp_path / "learner")
    assert after.memory == saved


async def test_rewards_that_nobody_reads_are_not_fetched():
    class Reference:
        fetched = 0

        def __await__(self) -> Iterator[None]:
            self.fetched += 1
            return iter(())

    for watch, fetched in ((None, 0), (SimpleNamespace(observe=lambda rewards: None), 1)):
        groups: Any = ("a group",)
        step = PreparedStep("grpo", StepGroups(groups), [], Reference(), Reference(), {"score": 1.0})
        trained = await PlainTraining(WORKERS, watch).train(step)  # type: ignore[arg-type]
        assert (step.rewards.fetched, step.assignments.fetched) == (fetched, 1)
        assert trained.metrics == {"trained_tokens": 9.0, "score": 1.0}


@pytest.mark.real
async def test_a_scalariser_makes_the_advantages_of_a_step(start_router):
    """Nobody succeeds, so `single` has nothing to say, while `uniform` compares progress."""
    played = [group("a", (0.0, 0.5, 1.0)), group("b", (0.5, 0.5, 0.5))]
    for scalariser, expected in (("single", [0.0] * 6), ("uniform", [-1.0, 0.0, 1.0, 0.0, 0.0, 0.0])):
        router = start_router(RewardSettings.model_validate({"scalariser": scalariser}))
        trained = await learner(router).train("grpo", played, ())
        assert trained.assignments is not None
        found = [sum(row.advantages) for row in assignments_from_table(trained.assignments)]
        assert found == pytest.approx(expected, abs=1e-4)
        assert trained.metrics["reward/progress/mean"] == pytest.approx(0.5)
        assert trained.metrics["reward/progress/weight"] == {"single": 0.0, "uniform": 0.5}[scalariser]


@pytest.mark.real
async def test_the_conductor_weighs_learns_and_comes_back_from_a_checkpoint(start_router, tmp_path):
    config = ConductorSettings(update_every=2, lr=0.1)
    router = start_router(RewardSettings(scalariser="conductor"))
    handles = [start_conductor(CHANNELS, HIDDEN, config, {"num_cpus": 0}) for _ in range(2)]
    first, second = (conducted(router, handle, config) for handle in handles)
    try:
        steps = [await first.train("grpo", [group(str(at), (0.0, 0.5, 1.0))], ()) for at in range(3)]
        assert [step.metrics["trained_tokens"] for step in steps] == [9.0] * 3
        assert ["conductor/version" in step.metrics for step in steps] == [False, True, False]
        rows = [assignments_from_table(step.assignments) for step in steps if step.assignments is not None]
        assert [row[0].reward_weights_version for row in rows] == [0, 0, 1]
        assert [row[0].advantages < row[1].advantages < row[2].advantages for row in rows] == [True] * 3
        await first.begin_save(tmp_path / "learner")
        await second.restore(tmp_path / "learner")
        ours, theirs = [await one.train("grpo", [group("x", (0.0, 0.5, 1.0))], ()) for one in (first, second)]
        assert ours.metrics == theirs.metrics and ours.metrics["conductor/version"] == 2.0
    finally:
        for handle in handles:
            ray.kill(handle)


@pytest.mark.real
async def test_the_policy_reads_what_open_channels_need_before_it_trains(start_router):
    config = load_config("local", overrides=["tasks=questions", "reward.scalariser=uniform"])
    channels = ("progress", "entropy", "length")
    router = start_router(config.reward, channels, open_channels(config, channels, str(embedded_model_path()), {}))
    trained = await learner(router, PolicyReader(WORKERS, router)).train("grpo", [group("a", (0.0, 0.5, 1.0))], ())
    assert trained.metrics["reward/entropy/mean"] == pytest.approx(-0.3)
    assert trained.metrics["reward/length/mean"] == pytest.approx(1 - 1 / config.rollout.max_response_tokens)
    assert trained.metrics["read_s"] > 0


@pytest.mark.real
async def test_what_is_wrong_with_a_channel_is_said_in_one_line(start_router):
    broken = start_router(RewardSettings(scalariser="uniform"), ("success", "score"))
    with pytest.raises(UserError, match=r"^reward channel 'score' is missing in episode a/0; its channels are succ"):
        await learner(broken).train("grpo", [group("a", (0.0, 1.0))], ())
    nan = start_router(RewardSettings(scalariser="uniform"))
    with pytest.raises(UserError, match=r"^reward channel 'progress' is nan in episode a/1: a channel must give"):
        await learner(nan).train("grpo", [group("a", (0.0, float("nan")))], ())
    watched = learner(start_router(RewardSettings(scalariser="uniform")), watch=ConstantWatch(limit=4))
    await watched.train("grpo", [group("a", (0.0, 1.0))], ())
    with pytest.raises(UserError, match=r"^reward channel 'success' is 0 in all of 4 episodes up to b/1: raise rew"):
        await watched.train("grpo", [group("b", (0.0, 1.0))], ())
