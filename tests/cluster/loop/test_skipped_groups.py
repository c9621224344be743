"""Dynamic sampling in the control loop: groups that teach nothing are skipped, whatever the timing."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.loop.checkpoint import load_manifest, sound_checkpoint
from cluster.loop.coordinator import Interrupted
from tests.cluster.loop.test_coordinator import COUNTED, GRPO, resume, run
from tests.cluster.simulation import Log, SimulatedLearner, SimulatedRollouts, World, coordinator, programme
from trajectories.store import TrajectoryStore

SAMPLED = GRPO.model_copy(update={"dynamic_sampling": True, "group_size": 2, "max_skipped": 99})
"""With two members every other group teaches nothing: they solve the task, or fail, by the parity of their seeds."""


def trained_positions(run_dir: Path) -> list[int]:
    """Positions of the groups in the trajectory store, each as often as it was trained."""
    store = TrajectoryStore(run_dir / "trajectories")
    ids = [set(store.read(number)[0]["group_id"].to_pylist()) for number in range(len(store))]
    return sorted(int(group_id.removeprefix("grpo-")) for part in ids for group_id in part)


def informative_positions(count: int) -> list[int]:
    """The first `count` positions whose members do not all do alike."""
    tasks = ((at, programme(SAMPLED).group_task(0, at)) for at in itertools.count())
    return list(itertools.islice((at for at, task in tasks if len({seed % 2 for seed in task.seeds}) > 1), count))


def test_dynamic_sampling_trains_the_first_groups_that_teach_something_whatever_the_timing(tmp_path):
    expected = informative_positions(18)
    assert expected[-1] > 20, "there is something to skip"
    for seed in range(3):
        log = Log()
        run(tmp_path / str(seed), SAMPLED, World(SimulatedRollouts(seed=seed), log=log))
        assert trained_positions(tmp_path / str(seed)) == expected
        assert all(metrics["informative_groups"] == 1 for metrics in log.metrics)
        assert all(metrics["groups_submitted"] == sum(metrics[part] for part in COUNTED) for metrics in log.metrics)
        assert log.metrics[-1]["groups_skipped"] == expected[-1] + 1 - 18
        skipped_turns = sum(metrics["skipped_turns"] for metrics in log.metrics)
        assert skipped_turns == 2 * (expected[-1] + 1 - 18), "two members of one turn each"
        solved = sum(one["success"] * (one["episodes"] + one["skipped_turns"]) for one in log.metrics)
        seeds = [seed for at in range(expected[-1] + 1) for seed in programme(SAMPLED).group_task(0, at).seeds]
        assert solved == pytest.approx(sum(seed % 2 == 0 for seed in seeds)), "success is of all that was played"


def test_a_mixed_stage_skips_nothing_that_it_may_imitate(tmp_path):
    log, mixed = Log(), SAMPLED.model_copy(update={"mixed_steps": 6, "grpo_steps": 0})
    run(tmp_path, mixed, World(log=log))
    assert log.metrics[-1]["groups_skipped"] == 0 and min(one["informative_groups"] for one in log.metrics) < 1


@pytest.mark.parametrize("stop_at", [1, 3, 5])
def test_dynamic_sampling_that_stops_and_resumes_trains_the_same_groups(tmp_path, stop_at):
    log = Log()
    first = coordinator(tmp_path, programme(SAMPLED), World(log=log))
    log.at_step = lambda step: first.stop() if step == stop_at else None
    with pytest.raises(Interrupted):
        asyncio.run(first.run())
    saved = load_manifest(sound_checkpoint(tmp_path)[0]).frontier
    pending = [group.position for group in saved.pending]
    assert sorted([*saved.trained, *saved.skipped, *saved.ready, *pending]) == list(range(saved.cursor))
    assert saved.skipped

    second = coordinator(tmp_path, programme(SAMPLED), World(SimulatedRollouts(seed=9), log=log))
    log.at_step = None
    asyncio.run(resume(second, tmp_path))
    expected = informative_positions(18)
    assert trained_positions(tmp_path) == expected
    assert log.metrics[-1]["groups_skipped"] == expected[-1] + 1 - 18


class HopelessRollouts(SimulatedRollouts):
    """Nothing is solved."""

    async def run_group(self, task):
        return await super().run_group(replace(task, seeds=tuple(2 * seed + 1 for seed in task.seeds)))


def test_where_nothing_is_solved_a_step_takes_what_comes_beyond_the_cap(tmp_path):
    log, learner = Log(), SimulatedLearner()
    schedule = SAMPLED.model_copy(update={"max_skipped": 5})
    run(tmp_path, schedule, World(HopelessRollouts(), learner, log))
    assert len(learner.trained) == 18
    assert log.metrics[-1]["groups_skipped"] == 6 * 5
    assert sum(metrics["skipped_turns"] for metrics in log.metrics) == 2 * 6 * 5, "two members of one turn each"
    assert all(metrics["informative_groups"] == 0 for metrics in log.metrics)
