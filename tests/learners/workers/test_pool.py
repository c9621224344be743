"""The pool of workers on real Ray Train."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray

from learners.workers.pool import LearnerPool, LearnerRestarted
from learners.workers.worker import LearnerWorker
from tests.learners.samples import learner_settings, make_sequences, make_tables
from trajectories.errors import WorkersLost

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("ray_session")]


@pytest.fixture
def pool(untied_model: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[LearnerPool]:
    workers, max_failures = getattr(request, "param", (1, 0))
    pool = LearnerPool(
        learner_settings(untied_model),
        run_name=tmp_path.name,
        storage=tmp_path / "train",
        num_workers=workers,
        resources_per_worker={"CPU": 0.5},
        max_failures=max_failures,
    )
    pool.start(timeout_s=240)
    yield pool
    pool.stop()


@pytest.mark.parametrize("pool", [(1, 0), (2, 0)], indirect=True, ids=["one worker", "two workers"])
async def test_commands_run_on_every_worker_as_inline(pool: LearnerPool, untied_model: Path) -> None:
    inline = LearnerWorker(learner_settings(untied_model))
    sequences, assignments = make_tables(make_sequences(7))
    results = await pool.call("train", "mixed", [ray.put(sequences)], ray.put(assignments))
    expected = inline.train("mixed", sequences, assignments)
    for result in results:
        assert {**result, "seconds": 0} == pytest.approx({**expected, "seconds": 0}, rel=1e-4, abs=1e-5)

    scores = (await pool.call("score", sequences))[0]
    for ours, theirs in zip(scores, inline.score(sequences), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)

    refs = await pool.call_refs("export", 1)
    update, expected_update = await refs[0], inline.export(1)
    assert expected_update is not None
    ours, theirs = update.load(), expected_update.load()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        np.testing.assert_allclose(tensor.numpy(), theirs[name].numpy(), atol=1e-5)


@pytest.mark.parametrize("pool", [(1, 1)], indirect=True)
async def test_workers_that_die_come_back_with_the_last_checkpoint(pool: LearnerPool, tmp_path: Path) -> None:
    sequences, assignments = make_tables(make_sequences(6))
    await pool.call("train", "mixed", sequences, assignments)
    await pool.call("save", str(tmp_path / "checkpoint"))
    expected = (await pool.call("train", "mixed", sequences, assignments))[0]
    with pytest.raises(WorkersLost, match="have no assignment"):
        await pool.call("train", "mixed", sequences, assignments.slice(1))
    with pytest.raises(LearnerRestarted) as caught:
        await asyncio.wait_for(pool.call("train", "mixed", sequences, assignments), timeout=240)
    assert caught.value.checkpoint == str(tmp_path / "checkpoint")
    again = (await pool.call("train", "mixed", sequences, assignments))[0]
    assert {**again, "seconds": 0} == {**expected, "seconds": 0}


async def test_without_restarts_left_every_later_call_says_why(pool: LearnerPool) -> None:
    with pytest.raises(WorkersLost, match="no attribute 'fly'"):
        await pool.call("fly")
    with pytest.raises(WorkersLost, match="the learner workers died"):
        await pool.call("export", 1, timeout_s=240)


def test_a_group_that_finds_no_room_says_what_it_waited_for(untied_model: Path, tmp_path: Path) -> None:
    occupied = ray.util.placement_group([{"CPU": 2}])
    ray.get(occupied.ready(), timeout=60)
    pool = LearnerPool(
        learner_settings(untied_model), run_name="crowded", storage=tmp_path, resources_per_worker={"CPU": 1}
    )
    with pytest.raises(WorkersLost, match="0 of 1 workers were ready after 3 s"):
        pool.start(timeout_s=3)
    pool.stop()
    ray.util.remove_placement_group(occupied)
