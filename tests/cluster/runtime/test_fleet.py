"""The fleet against actors in this process: where groups go, what happens when an actor dies, how often it is tried."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ObjectLostError, RayActorError

from actors.engine import EngineError
from actors.episode import EnvironmentFailure
from actors.rollout_group import GroupRequest
from cluster.loop.ports import GroupTask
from cluster.loop.stream import RunError
from cluster.runtime import fleet as module
from cluster.runtime.fleet import GROUP_ATTEMPTS, REVIVALS, RolloutFleet
from cluster.runtime.weights import Superseded
from tests.cluster.simulation import trajectory
from trajectories.errors import UserError, WorkersLost
from trajectories.schema import to_tables


class Remote:
    """A method of an actor."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.remote = call


class FakeActor:
    """Plays groups as the vLLM actor does. `deaths` of its groups end with its death, after which its weights are gone.

    Attributes:
        errors: raised by the next health checks, one each.
        stuck: while set, nothing is answered.
    """

    def __init__(self, deaths: int = 0) -> None:
        self.deaths, self.version, self.stuck = deaths, 0, False
        self.errors: Sequence[Exception] = ()
        self.played: list[GroupRequest] = []
        self.published: list[Any] = []
        self.health_checks = 0
        self.release = asyncio.Event()
        self.release.set()
        self.check_health, self.publish = Remote(self._check_health), Remote(self._publish)
        self.run_group, self.score_logprobs = Remote(self._run_group), Remote(self._score)

    async def _check_health(self) -> Any:
        self.health_checks += 1
        if self.stuck:
            await asyncio.Event().wait()
        if self.errors:
            error, *self.errors = self.errors
            raise error
        return SimpleNamespace(version=self.version)

    async def _publish(self, update: Any) -> None:
        if isinstance(update, Exception):
            raise update
        self.published.append(update)
        self.version = update

    async def _score(self, token_ids: Any, temperature: float) -> Any:
        return [f"scores of {token_ids}"]

    def _run_group(self, request: GroupRequest) -> tuple[Any, str]:
        return self._play(request), f"tokens of {request.group_id}"

    async def _play(self, request: GroupRequest) -> Any:
        self.played.append(request)
        await self.release.wait()
        if self.deaths:
            self.deaths, self.version = self.deaths - 1, 0
            raise RayActorError
        task = group(request.group_id, len(request.seeds))
        return to_tables(trajectory(task, member, self.version) for member in range(len(request.seeds)))[0]


def group(name: str = "g", members: int = 2) -> GroupTask:
    return GroupTask(name, "mock", "task", tuple(range(members)), 1.0, "train")


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Actors that the fleet has killed for Ray to restart: they answer again."""
    victims: list[Any] = []

    def kill(actor: Any, restart: bool) -> None:
        assert restart
        victims.append(actor)
        actor.stuck, actor.version = False, 0

    monkeypatch.setattr(module.runtime, "kill", kill)
    monkeypatch.setattr(module, "RETRY_S", 0.0)
    return victims


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def started(*actors: FakeActor, episodes: int = 4, start_timeout_s: float = 5.0, health_check_s: float = 60.0):
    named = {f"rollout-{at}": actor for at, actor in enumerate(actors)}
    fleet = RolloutFleet(named, episodes, start_timeout_s, health_check_s)
    try:
        await fleet.start()
        yield fleet
    finally:
        await fleet.close()


class Given:
    """Weights of a version that are to be had at once, or not any more; actors get the version itself."""

    def __init__(self, version: Any, superseded: bool = False) -> None:
        self.version, self.superseded = version, superseded

    async def load(self, actors: Mapping[str, Any]) -> list[Any]:
        if self.superseded:
            raise Superseded
        return await asyncio.gather(
            *(actor.publish.remote(self.version) for actor in actors.values()), return_exceptions=True
        )


async def test_a_finished_group_is_a_summary_and_references(killed):
    async with started(FakeActor()) as fleet:
        finished = await fleet.run_group(group("a", members=3))
    assert (finished.members, finished.environment, finished.data[1]) == (3, "mock", "tokens of a")


@pytest.mark.parametrize("max_turns", [None, 7])
async def test_a_group_is_played_with_the_turn_limit_of_its_task(killed, max_turns):
    actor = FakeActor()
    async with started(actor) as fleet:
        await fleet.run_group(replace(group("a"), max_turns=max_turns))
    assert [request.max_turns for request in actor.played] == [max_turns]


async def test_groups_go_to_the_least_loaded_actor_which_has_twice_its_episodes_and_a_larger_one_alone(killed):
    first, second = FakeActor(), FakeActor()
    async with started(first, second, episodes=2) as fleet:
        assert [fleet.room(members) for members in (1, 2, 4, 9)] == [8, 4, 2, 2]
        for actor in (first, second):
            actor.release.clear()
        small = [asyncio.create_task(fleet.run_group(group(f"{at}"))) for at in range(4)]
        large = asyncio.create_task(fleet.run_group(group("large", members=9)))
        await until(lambda: len(first.played) + len(second.played) == 4)
        assert [len(actor.played) for actor in (first, second)] == [2, 2], "the large group waits"
        for actor in (first, second):
            actor.release.set()
        await asyncio.gather(*small, large)
    assert sum(len(actor.played) for actor in (first, second)) == 5


async def test_a_group_whose_actor_dies_is_played_again_and_the_actor_returns_with_the_latest_weights(killed):
    dying, other = FakeActor(deaths=1), FakeActor()
    async with started(dying, other) as fleet:
        await fleet.publish(Given(3), version=3)
        finished = await fleet.run_group(group("a"))
        assert (finished.members, fleet.restarts) == (2, 1)
        assert [len(actor.played) for actor in (dying, other)] == [1, 1]
        await until(lambda: (dying.published, dying.version) == ([3, 3], 3))
        await asyncio.gather(*(fleet.run_group(group(f"{at}")) for at in range(4)))
        assert dying.played[-1].weights_version == 3


@pytest.mark.parametrize(("deaths", "survives"), [(GROUP_ATTEMPTS - 1, True), (GROUP_ATTEMPTS, False)])
async def test_a_group_is_tried_exactly_so_many_times(killed, deaths, survives):
    actor = FakeActor(deaths=deaths)
    async with started(actor) as fleet:
        if survives:
            assert (await fleet.run_group(group("a"))).members == 2
        else:
            with pytest.raises(RunError, match=rf"{GROUP_ATTEMPTS} rollout actors died under group a: look at their"):
                await fleet.run_group(group("a"))
    assert len(actor.played) == GROUP_ATTEMPTS


async def test_an_error_that_no_other_actor_would_avoid_is_not_tried_again(killed):
    class Unknowing(FakeActor):
        async def _play(self, request: GroupRequest) -> Any:
            self.played.append(request)
            raise UserError("no such task")

    actor = Unknowing()
    async with started(actor) as fleet:
        with pytest.raises(UserError, match="no such task"):
            await fleet.run_group(group())
    assert (len(actor.played), fleet.restarts) == (1, 0)


@pytest.mark.parametrize(("failures", "survives"), [(REVIVALS - 1, True), (REVIVALS, False)])
async def test_an_engine_that_does_not_start_again_is_given_up_after_so_many_tries(killed, failures, survives):
    actor = FakeActor()
    async with started(actor) as fleet:
        actor.deaths, actor.errors = 1, [EngineError("no memory")] * failures
        if survives:
            assert (await fleet.run_group(group())).members == 2
        else:
            with pytest.raises(RunError, match=r"^rollout-0 does not start: no memory$"):
                await fleet.run_group(group())
    assert killed == [actor] * (REVIVALS - 1)


async def test_the_run_goes_on_with_the_actors_that_are_left(killed):
    lost, other = FakeActor(), FakeActor()
    async with started(lost, other) as fleet:
        lost.deaths, lost.errors = 1, [EngineError("no memory")] * REVIVALS
        finished = await asyncio.gather(*(fleet.run_group(group(f"{at}")) for at in range(6)))
    assert [one.members for one in finished] == [2] * 6
    assert len(lost.played) <= 2, "what ran on it when it died"


async def test_the_run_waits_for_an_actor_that_is_still_starting_when_the_last_other_is_given_up(killed):
    back = asyncio.Event()
    back.set()

    class SlowActor(FakeActor):
        async def _check_health(self) -> Any:
            await back.wait()
            return await super()._check_health()

    lost, slow = FakeActor(), SlowActor()
    async with started(lost, slow) as fleet:
        lost.deaths, lost.errors = 1, [EngineError("no memory")] * REVIVALS
        slow.deaths = 1
        back.clear()
        playing = [asyncio.create_task(fleet.run_group(group(f"{at}"))) for at in range(2)]
        await until(lambda: not lost.errors)
        await asyncio.sleep(0.05)
        assert not any(one.done() for one in playing)
        back.set()
        assert [(await one).members for one in playing] == [2, 2]


@pytest.mark.parametrize("error", [EnvironmentFailure("open: no disk"), RayActorError(), UserError("no data")])
async def test_an_actor_that_is_not_well_is_sent_no_groups_until_it_is(killed, error):
    actor = FakeActor()
    async with started(actor, health_check_s=0.02) as fleet:
        actor.errors = [error]
        await until(lambda: fleet.restarts == 1)
        assert (await fleet.run_group(group())).members == 2


@pytest.mark.parametrize("error", [EngineError("unknown model"), EnvironmentFailure("open: no disk")])
async def test_an_actor_whose_engine_or_environments_never_started_is_not_tried_again(killed, error):
    actor = FakeActor()
    actor.errors = [error]
    with pytest.raises(RunError, match=f"rollout-0 does not start: {error}"):
        async with started(actor):
            pass
    assert (actor.health_checks, killed) == (1, [])


async def test_the_wait_for_the_start_is_bounded_and_says_what_it_waits_for(killed):
    actor = FakeActor()
    actor.stuck = True
    with pytest.raises(RunError, match=r"rollout-0 was not ready within 0\.05 s: raise placement\.start_timeout_s"):
        async with started(actor, start_timeout_s=0.05):
            pass


async def test_an_actor_that_gives_no_sign_of_life_is_restarted_with_the_latest_weights(killed):
    actor = FakeActor()
    async with started(actor, health_check_s=0.05) as fleet:
        await fleet.publish(Given(2), version=2)
        actor.stuck = True
        await until(lambda: (fleet.restarts, actor.version) == (1, 2))
        assert killed == [actor]


async def test_groups_ask_only_for_weights_that_every_engine_has(killed):
    """While a publication is under way, an engine may not hold the new weights yet."""

    class SlowActor(FakeActor):
        async def _publish(self, update: Any) -> None:
            await asyncio.sleep(0.02)
            await super()._publish(update)

    actor = SlowActor()
    async with started(actor) as fleet:
        publication = asyncio.create_task(fleet.publish(Given(1), version=1))
        await asyncio.sleep(0)
        await fleet.run_group(group("during"))
        await publication
        await fleet.run_group(group("after"))
    assert [request.weights_version for request in actor.played] == [0, 1]


async def test_an_actor_that_dies_over_a_publication_is_brought_up_to_date(killed):
    class DyingActor(FakeActor):
        async def _publish(self, update: Any) -> None:
            if not self.published:
                self.published.append("died")
                raise RayActorError
            await super()._publish(update)

    dying, other = DyingActor(), FakeActor()
    async with started(dying, other) as fleet:
        await fleet.publish(Given(1), version=1)
        assert other.version == 1 and fleet.restarts == 1
        await until(lambda: dying.version == 1)
        assert await fleet.score("ids", 1.0) == [["scores of ids"]] * 2


async def test_an_actor_that_comes_back_while_the_learner_trains_waits_for_the_next_weights(killed):
    """However long that takes: the limit of its start does not count."""
    actor = FakeActor()
    async with started(actor, start_timeout_s=0.05) as fleet:
        weights = Given(1)
        await fleet.publish(weights, version=1)
        weights.superseded, actor.deaths = True, 1
        playing = asyncio.create_task(fleet.run_group(group()))
        await asyncio.sleep(0.2)
        assert not playing.done() and actor.version == 0
        await fleet.publish(Given(2), version=2)
        assert (await playing).members == 2 and actor.version == 2
        assert [request.weights_version for request in actor.played] == [1, 2]


async def test_weights_that_are_gone_are_named(killed):
    async with started(FakeActor()) as fleet:
        with pytest.raises(WorkersLost, match="the weights of version 4 are gone: their learner worker died"):
            await fleet.publish(Given(ObjectLostError("ab", None, "")), version=4)
