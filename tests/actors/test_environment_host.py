"""Environment hosts and the pool, on real Ray: processes that die, hang and raise."""

import asyncio
import os
import signal
import time
from typing import Any

import pytest
import ray

from actors.environment_host import EnvironmentPool, start_environment_host
from actors.episode import EnvironmentFailure
from envs.base import Observation, StepResult
from tests.actors.scripted import Countdown
from trajectories.errors import UserError

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="session")]


class Echo:
    """Another environment: says what it hears."""

    reward_names = ("success",)

    def reset(self, task_id: str, seed: int = 0) -> Observation:
        return Observation(f"I am {task_id}.")

    def step(self, action: str) -> StepResult:
        return StepResult(Observation(action), {"success": 0.0}, done=False)

    def close(self) -> None:
        pass


def slow_and_broken() -> Echo:
    time.sleep(0.5)
    raise OSError("no disk")


ENVIRONMENTS = {"countdown": Countdown, "echo": Echo}


@pytest.fixture(scope="module")
def host(ray_session):
    host = start_environment_host(ENVIRONMENTS, {"name": "concerto:test:env-0", "num_cpus": 0.1})
    yield host
    ray.kill(host)


async def open_pool(host, slots: int = 2, timeout_s: float = 60.0) -> EnvironmentPool:
    return await EnvironmentPool.open([host], "test", slots, timeout_s)


async def process_of(host) -> int:
    """The process id, once there is a process."""
    return await host.__ray_call__.options(max_task_retries=-1).remote(lambda _: os.getpid())


async def test_environments_play_in_another_process(host):
    pool = await open_pool(host)
    assert pool.reward_names == {"countdown": Countdown.reward_names, "echo": ("success",)}
    async with pool.lease("countdown") as session:
        assert (await session.reset("2", 0)).text == "Count down from 2."
        assert not (await session.step("down")).done
        assert (await session.step("down")).rewards["success"] == 1.0
    assert await process_of(host) != os.getpid()


async def test_slots_do_not_disturb_each_other(host):
    pool = await open_pool(host)
    async with pool.lease("countdown") as first, pool.lease("countdown") as second:
        await asyncio.gather(first.reset("3", 0), second.reset("9", 0))
        steps = await asyncio.gather(first.step("down"), second.step("down"))
        assert [step.info["state_hash"] for step in steps] == [2, 8]


async def test_steps_of_the_same_moment_travel_together_and_fail_apart(host, monkeypatch):
    pool = await open_pool(host, slots=4)
    calls = []
    original = type(host.step_all).remote
    monkeypatch.setattr(type(host.step_all), "remote", lambda *call: calls.append(call) or original(*call))
    async with pool.lease("countdown") as first, pool.lease("countdown") as second, pool.lease("echo") as third:
        for session in (first, second, third):
            await session.reset("3", 0)
        calls.clear()
        sessions = ((first, "down"), (second, "crash"), (third, "hello"))
        steps = (session.step(action) for session, action in sessions)
        results: list[Any] = await asyncio.gather(*steps, return_exceptions=True)
        assert len(calls) == 1 and results[0].info["state_hash"] == 2 and results[2].observation.text == "hello"
        assert isinstance(results[1], EnvironmentFailure) and "step 'crash': the game is broken" in str(results[1])
        assert (await first.step("down")).info["state_hash"] == 1 and len(calls) == 2


async def test_one_slot_plays_every_kind_of_environment(host):
    pool = await open_pool(host, slots=1)
    for _ in range(2):
        async with pool.lease("echo") as session:
            assert session.reward_names == ("success",)
            assert (await session.reset("echo", 0)).text == "I am echo."
            assert (await session.step("down")).observation.text == "down"
        async with pool.lease("countdown") as session:
            assert session.reward_names == Countdown.reward_names
            await session.reset("2", 0)
            assert (await session.step("down")).observation.text == "1 left."


async def test_opening_may_take_longer_than_a_step_and_its_own_words_are_told(host):
    pool = await EnvironmentPool.open([host], "first", 1, 60.0)
    slow = start_environment_host({"slow": slow_and_broken}, {"num_cpus": 0.1})
    try:
        with pytest.raises(EnvironmentFailure, match=r"open: .*no disk"):
            await EnvironmentPool.open([host, slow], "second", 1, timeout_s=0.01)
    finally:
        ray.kill(slow)
    async with pool.lease("countdown") as session:
        assert (await session.reset("2", 0)).text == "Count down from 2."


async def test_a_lease_waits_until_a_slot_is_free(host):
    pool = await open_pool(host, slots=1)
    async with pool.lease("countdown"):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05), pool.lease("countdown"):
                pass
    async with asyncio.timeout(1), pool.lease("countdown"):
        pass


async def test_an_unknown_task_stays_a_data_error(host):
    async with (await open_pool(host)).lease("countdown") as session:
        with pytest.raises(UserError, match="use a number"):
            await session.reset("x", 0)


async def test_an_environment_that_raises_is_replaced(host):
    async with (await open_pool(host)).lease("countdown") as session:
        await session.reset("2", 0)
        with pytest.raises(EnvironmentFailure, match="the game is broken"):
            await session.step("crash")
        with pytest.raises(EnvironmentFailure, match="no episode in slot"):
            await session.step("down")
        assert (await session.reset("2", 0)).text == "Count down from 2."


async def test_a_killed_process_fails_the_episode_and_comes_back(host):
    async with (await open_pool(host)).lease("countdown") as session:
        await session.reset("2", 0)
        pid = await process_of(host)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(EnvironmentFailure):
            while True:
                await session.step("wait")
        assert (await session.reset("2", 0)).text == "Count down from 2."
        assert await process_of(host) != pid


async def test_a_process_that_kills_itself_is_a_failure_of_this_episode(host):
    async with (await open_pool(host)).lease("countdown") as session:
        await session.reset("2", 0)
        with pytest.raises(EnvironmentFailure, match="died"):
            await session.step("exit")
        await session.reset("2", 0)


async def test_a_hanging_environment_is_restarted_after_the_time_out(host):
    await process_of(host)
    pool = await open_pool(host, timeout_s=3.0)
    async with pool.lease("countdown") as session, pool.lease("countdown") as neighbour:
        await neighbour.reset("5", 0)
        await session.reset("2", 0)
        with pytest.raises(EnvironmentFailure, match="no answer within 3 s"):
            await session.step("hang")
        await process_of(host)
        with pytest.raises(EnvironmentFailure):
            await neighbour.step("down")
        assert (await neighbour.reset("5", 0)).text == "Count down from 5."
