"""The recorder: groups go to disk by reference, in any order of calls, and ready groups come back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import ray

from actors.recorder import start_recorder
from cluster.loop.ports import GroupTask
from cluster.loop.stream import RunError
from cluster.runtime.recorder import RayRecorder
from tests.cluster.guard import TokensSeen, no_tokens
from tests.cluster.simulation import trajectory
from trajectories.schema import assignments_to_table, from_tables, to_tables
from trajectories.store import TrajectoryStore
from trajectories.types import Assignment, Route

pytestmark = pytest.mark.real


@ray.remote(num_cpus=0, num_returns=2)
def play(name: str, environment: str = "mock") -> tuple[Any, Any]:
    """A group that another process has played."""
    task = GroupTask(name, environment, f"task-{name}", (0, 1), 1.0, "train")
    return to_tables(trajectory(task, member, version=0) for member in range(2))


def played(name: str, environment: str = "mock") -> tuple[Any, Any]:
    """References to its episodes and its sequences."""
    episodes, sequences = cast(Any, play).remote(name, environment)
    return episodes, sequences


@pytest.fixture
def actor(ray_session: None, tmp_path: Path) -> Iterator[Any]:
    actor = start_recorder(tmp_path / "trajectories", {})
    yield actor
    ray.kill(actor)


async def test_parts_are_written_and_forgotten_without_a_token_in_this_process(actor, tmp_path):
    recorder = RayRecorder(actor)
    assignments = assignments_to_table([Assignment("a/0-0", Route.GRPO, (0.5,), 1.0, 0.0, {})])
    with no_tokens():
        await recorder.truncate(0)
        await recorder.write(0, [played("a"), played("b", "shop")], assignments)
        await recorder.write(1, [played("c")], None)
    store = TrajectoryStore(tmp_path / "trajectories")
    episodes, sequences, kept = store.read(0)
    trajectories = from_tables(episodes, sequences)
    assert [one.episode.group_id for one in trajectories] == ["a", "a", "b", "b"]
    assert [set(one.episode.rewards) for one in trajectories[1:3]] == [{"success"}, {"success", "score"}]
    assert kept == assignments
    await recorder.truncate(1)
    assert len(store) == 1


async def test_a_ready_group_comes_back_by_reference(actor, tmp_path):
    recorder = RayRecorder(actor)
    with no_tokens():
        await recorder.keep(tmp_path / "ready", {4: played("a"), 7: played("b")})
        group = await recorder.read(tmp_path / "ready", 7)
        with pytest.raises(TokensSeen, match="a sequences table came into this process"):
            await asyncio.wait_for(group.data[1], 30)
    assert (group.members, group.successes, group.environment) == (2, 1, "mock")
    assert ray.get(list(group.data)) == list(ray.get(list(played("b"))))


async def test_a_recorder_that_dies_is_started_again_and_the_call_repeated(actor, tmp_path):
    recorder = RayRecorder(actor)
    await recorder.write(0, [played("a")], None)
    ray.kill(actor, no_restart=False)
    await recorder.write(1, [played("b")], None)
    assert len(TrajectoryStore(tmp_path / "trajectories")) == 2


async def test_what_cannot_be_written_is_said_in_one_line(actor, tmp_path):
    (tmp_path / "ready").write_text("a file where a folder should be")
    with pytest.raises(RunError, match=r"^the recorder could not keep 1 ready groups in a checkpoint: .*File exists"):
        await RayRecorder(actor).keep(tmp_path / "ready", {0: played("a")})


async def test_the_wait_for_the_recorder_is_bounded_and_says_what_it_waits_for(actor):
    with pytest.raises(RunError, match=r"did not write part 3 of the trajectories within 0\.01 s: look at its log"):
        await RayRecorder(actor, timeout_s=0.01).write(3, [played("a")], None)
