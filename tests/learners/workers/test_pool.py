"""The pool of workers on real Ray Train."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import ray

from learners.policy.transport import WeightReceiver
from learners.workers.pool import LearnerPool
from learners.workers.worker import LearnerWorker
from tests.cluster.runs import title
from tests.learners.samples import learner_settings, make_sequences, make_tables, published
from trajectories.errors import ConcertoError, WorkersLost

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("ray_session")]


@pytest.fixture
def pool(untied_model: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[LearnerPool]:
    pool = LearnerPool(
        learner_settings(untied_model),
        run_name=tmp_path.name,
        storage=tmp_path / "train",
        num_workers=getattr(request, "param", 1),
        resources_per_worker={"CPU": 0.5},
    )
    pool.start(timeout_s=240)
    yield pool
    pool.stop()


@pytest.mark.parametrize("pool", [1, 2], indirect=True, ids=["one worker", "two workers"])
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

    address, *others = await pool.call("address")
    assert others == [None] * (len(results) - 1)
    host, port = address
    taking = asyncio.to_thread(lambda: dict(WeightReceiver(0, 1).receive(host, port, "engine/1", 60)))
    sent, ours = await asyncio.gather(pool.call("send", {"engine": ("engine/1", 1)}, 60.0), taking)
    theirs = published(inline.policy)
    assert not any(sent) and ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        np.testing.assert_allclose(tensor.numpy(), theirs[name].numpy(), atol=1e-5)


async def test_what_ended_the_workers_is_said_by_the_call_under_way_and_every_later_one(pool: LearnerPool) -> None:
    with pytest.raises(WorkersLost, match="no attribute 'fly'"):
        await pool.call("fly")
    with pytest.raises(WorkersLost, match="the learner workers died"):
        await pool.call("export", 1, timeout_s=240)


async def test_after_a_worker_was_killed_another_pool_takes_its_name(pool: LearnerPool) -> None:
    sequences, _ = make_tables(make_sequences(3))
    before = (await pool.call("score", sequences))[0]
    (worker,) = (one for one in psutil.Process().children(recursive=True) if "RayTrainWorker" in title(one))
    worker.kill()
    with pytest.raises(WorkersLost, match="the learner workers died"):
        await pool.call("score", sequences, timeout_s=240)
    pool.stop()
    pool.start(timeout_s=240)
    after = (await pool.call("score", sequences))[0]
    assert [row.tolist() for row in after] == [row.tolist() for row in before]


def test_a_pool_that_finds_no_room_says_what_it_waited_for(untied_model: Path, tmp_path: Path) -> None:
    occupied = ray.util.placement_group([{"CPU": 2}])
    ray.get(occupied.ready(), timeout=60)
    pool = LearnerPool(
        learner_settings(untied_model), run_name="crowded", storage=tmp_path, resources_per_worker={"CPU": 1}
    )
    with pytest.raises(WorkersLost, match="0 of 1 workers were ready after 3 s"):
        pool.start(timeout_s=3)
    pool.stop()
    ray.util.remove_placement_group(occupied)


def test_what_a_worker_cannot_load_is_told_as_it_is_raised_and_at_once(untied_model: Path, tmp_path: Path) -> None:
    model = shutil.copytree(untied_model, tmp_path / "model")
    (model / "model.safetensors").write_bytes(b"torn")
    pool = LearnerPool(
        learner_settings(model), run_name="torn", storage=tmp_path / "train", resources_per_worker={"CPU": 0.5}
    )
    with pytest.raises(ConcertoError, match=r"torn|SafetensorError|cannot be loaded") as refusal:
        pool.start(timeout_s=240)
    assert not isinstance(refusal.value, WorkersLost), "another start would end in the same way"
    assert "\n" not in str(refusal.value)
    pool.stop()
