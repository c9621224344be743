"""The rollout actor: real Ray, real vLLM, real kills."""

import asyncio
import os
import signal

import numpy as np
import psutil
import pytest
import ray
import torch
from ray.exceptions import RayActorError

from actors.engine import EngineError
from actors.environment_host import start_environment_host
from actors.rollout import start_rollout_actor
from actors.rollout_group import GroupRequest, RolloutSettings
from tests.actors.conftest import SETTINGS
from tests.actors.scripted import Countdown
from tests.actors.sending import publish
from trajectories.schema import from_tables
from trajectories.types import StopReason

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="session")]

TURNS = 6
HOSTS = ("concerto:test:env-0", "concerto:test:env-1")
ROLLOUT = RolloutSettings(engine=SETTINGS, episodes=8, max_turns=TURNS, max_response_tokens=8)


@pytest.fixture(scope="module")
def hosts(ray_session):
    hosts = [start_environment_host({"countdown": Countdown}, {"num_cpus": 0.1, "name": name}) for name in HOSTS]
    yield hosts
    for host in hosts:
        ray.kill(host)


@pytest.fixture(scope="module")
def actor(hosts, tiny_model_dir):
    options = {"name": "concerto:test:rollout-0", "num_cpus": 0.5}
    actor = start_rollout_actor(ROLLOUT, str(tiny_model_dir), HOSTS, options)
    yield actor
    ray.kill(actor)


def request(group: str, version: int = 0, members: int = 4) -> GroupRequest:
    return GroupRequest(group, "countdown", "3", tuple(range(1, members + 1)), version, 1.0, "train")


async def publish_random(actor, model_dir, version: int) -> None:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(version)
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    for parameter in model.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    life = str((await actor.check_health.remote()).pid)
    await publish(actor.publish.remote, model.state_dict().items(), version, life)


def processes_below(pid: int) -> set[int]:
    return {child.pid for child in psutil.Process(pid).children(recursive=True)}


async def gone(pids: set[int]) -> None:
    """Wait until none of these processes runs any more; bounded by the test's own time-out."""
    while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids):
        await asyncio.sleep(0.05)


async def test_a_group_comes_back_as_two_tables(actor):
    episodes, sequences = await asyncio.gather(*actor.run_group.remote(request("first")))
    trajectories = from_tables(episodes, sequences)
    assert [trajectory.episode.member for trajectory in trajectories] == [0, 1, 2, 3]
    for trajectory in trajectories:
        assert trajectory.episode.stop_reason is not StopReason.ERROR
        assert trajectory.episode.generation_seconds > 0 and trajectory.episode.environment_seconds > 0
        (sequence,) = trajectory.sequences
        assert sequence.trained.any() and len(sequence.turns) == trajectory.episode.turns
    tokens = {trajectory.sequences[0].token_ids.tobytes() for trajectory in trajectories}
    assert len(tokens) == 4, "members of a group are sampled independently"


async def test_behaviour_logprobs_are_what_the_engine_scores(actor):
    _, sequences = await asyncio.gather(*actor.run_group.remote(request("parity")))
    for row in sequences.to_pylist():
        (scored,) = await actor.score_logprobs.remote([np.asarray(row["token_ids"], np.int32)], row["temperature"])
        trained = np.asarray(row["trained"])
        assert np.abs(np.asarray(row["logprobs"])[trained] - scored[trained]).max() < 1e-4


async def test_weights_that_were_sent_are_used_and_recorded(actor, tiny_model_dir):
    await publish_random(actor, tiny_model_dir, 1)
    assert (await actor.check_health.remote()).version == 1
    episodes, _ = await asyncio.gather(*actor.run_group.remote(request("published", version=1)))
    assert set(episodes["version_min"].to_pylist()) == set(episodes["version_max"].to_pylist()) == {1}


async def test_killed_environments_cost_no_episode(actor, hosts):
    groups = [actor.run_group.remote(request(f"env-kill-{index}", members=8)) for index in range(8)]
    await groups[0][0]
    os.kill(await hosts[0].__ray_call__.remote(lambda _: os.getpid()), signal.SIGKILL)
    for episodes_ref, _ in groups:
        episodes = await episodes_ref
        assert StopReason.ERROR not in episodes["stop_reason"].to_pylist() and episodes.num_rows == 8


async def test_a_killed_rollout_actor_leaves_no_process_and_comes_back(actor, tiny_model_dir):
    """Groups in progress fail with RayActorError; finished ones stay; the new process asks for weights first."""
    finished = actor.run_group.remote(request("finished"))
    await finished[0]
    pid = (await actor.check_health.remote()).pid
    below = processes_below(pid)
    assert below, "vLLM's engine core is a child of the actor"
    groups = [actor.run_group.remote(request(f"lost-{index}", members=8)) for index in range(12)]
    await groups[0][0]  # eight episodes play at a time, so that the last groups have hardly begun
    os.kill(pid, signal.SIGKILL)
    outcomes = await asyncio.gather(*(episodes for episodes, _ in groups), return_exceptions=True)
    lost = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert outcomes[-1] in lost and all(isinstance(error, RayActorError) for error in lost)
    whole = [outcome.num_rows for outcome in outcomes if not isinstance(outcome, BaseException)]
    assert whole and set(whole) == {8}
    await gone(below)
    assert (await finished[1]).num_rows == 4

    health = await actor.check_health.options(max_task_retries=-1).remote()
    assert health.pid != pid and health.version == 0
    with pytest.raises(Exception, match="publish to it first"):
        await actor.run_group.remote(request("too early", version=1))[0]
    await publish_random(actor, tiny_model_dir, 2)
    episodes, _ = await asyncio.gather(*actor.run_group.remote(request("again", version=2)))
    assert StopReason.ERROR not in episodes["stop_reason"].to_pylist()


async def test_an_actor_dies_with_its_engine(actor):
    """The last test but one on this actor."""
    health = await actor.check_health.remote()
    for child in processes_below(health.pid):
        os.kill(child, signal.SIGKILL)
    with pytest.raises(RayActorError):
        await actor.run_group.remote(request("dead engine"))[0]


async def test_a_closed_actor_ends_its_groups_and_not_its_process(actor):
    """Ray tells at length of a process that ends while a call is under way. The last test on this actor."""
    pid = (await actor.check_health.options(max_task_retries=-1).remote()).pid
    groups = [actor.run_group.remote(request(f"closed-{index}", members=8))[0] for index in range(12)]
    await groups[0]
    await actor.close.remote()
    outcomes = await asyncio.gather(*groups, return_exceptions=True)
    assert isinstance(outcomes[-1], EngineError) and not any(isinstance(one, RayActorError) for one in outcomes)
    assert await actor.__ray_call__.remote(lambda _: os.getpid()) == pid
