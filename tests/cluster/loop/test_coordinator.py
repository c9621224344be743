"""The control loop against simulated rollouts and a simulated learner: counters, staleness, resume, failures."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.config.sections import CheckpointSettings, EvaluationSettings, ScheduleSettings
from cluster.loop.checkpoint import has_checkpoint, load_manifest, sound_checkpoint
from cluster.loop.coordinator import Coordinator, Interrupted
from cluster.loop.recording import BACKLOG
from cluster.loop.stream import RunError
from envs.panels import Panel
from tests.cluster.simulation import (
    PANEL,
    TASKS,
    Log,
    SimulatedLearner,
    SimulatedRecorder,
    SimulatedRollouts,
    World,
    coordinator,
    programme,
)
from trajectories.schema import episodes_from_table
from trajectories.store import TrajectoryStore

GRPO = ScheduleSettings(grpo_steps=6, groups_per_step=3, group_size=4, max_staleness=1)
COUNTED = ("groups_accepted", "groups_filtered", "groups_skipped", "groups_running")


def run(run_dir: Path, schedule: ScheduleSettings, world: World, panels: tuple[Panel, ...] = (PANEL,)) -> Coordinator:
    loop = coordinator(run_dir, programme(schedule, panels), world)
    asyncio.run(loop.run())
    return loop


def test_every_stage_runs_its_steps_and_is_evaluated(tmp_path):
    schedule = ScheduleSettings(sft_steps=2, mixed_steps=2, grpo_steps=3, groups_per_step=2, sft_batch=4)
    log, learner = Log(), SimulatedLearner()
    run(tmp_path, schedule, World(learner=learner, log=log))
    assert learner.steps == 7
    assert log.evaluations == ["base", "after_sft", "after_mixed", "after_grpo"]
    assert len(learner.rows) == 4 * 4, "SFT and mixed steps take a batch of demonstrations each"
    assert len(learner.trained) == 5 * 2, "mixed and GRPO steps take a batch of groups each"


def test_every_evaluation_may_become_the_best_by_the_weights_that_were_evaluated(tmp_path):
    offered: list[tuple[str, int]] = []

    class KeepingWorld(World):
        async def keep_best(self, name: str) -> None:
            assert self.log.evaluations[-1] == name, "its result is there"
            offered.append((name, self.learner.steps))

    evaluating = replace(programme(GRPO), evaluation=EvaluationSettings(every=4))
    asyncio.run(coordinator(tmp_path, evaluating, KeepingWorld()).run())
    assert offered == [("base", 0), ("step_000004", 4), ("after_grpo", 6)]


def test_a_stop_does_not_cut_off_the_writing_of_the_best_weights(tmp_path):
    written: list[str] = []

    class StoppedWorld(World):
        async def keep_best(self, name: str) -> None:
            loop.stop()
            for _ in range(20):  # long enough to be cut off, without time passing
                await asyncio.sleep(0)
            written.append(name)

    loop = coordinator(tmp_path, programme(GRPO), StoppedWorld())
    with pytest.raises(Interrupted):
        asyncio.run(loop.run())
    assert written == ["base"] and load_manifest(sound_checkpoint(tmp_path)[0]).evaluated == ("base",)


def test_counters_add_up_at_every_step_and_concurrency_is_kept(tmp_path):
    log, rollouts = Log(), SimulatedRollouts(concurrency=4)
    run(tmp_path, GRPO, World(rollouts, log=log))
    for metrics in log.metrics:
        assert metrics["groups_submitted"] == sum(metrics[part] for part in COUNTED)
    assert rollouts.most_running == 4
    assert log.metrics[-1]["groups_accepted"] == 18 and log.metrics[-1]["groups_running"] == 0


@pytest.mark.parametrize("max_staleness", [0, 1, 3])
def test_no_data_older_than_the_bound_is_trained(tmp_path, max_staleness):
    learner = SimulatedLearner()
    schedule = GRPO.model_copy(update={"max_staleness": max_staleness})
    run(tmp_path, schedule, World(SimulatedRollouts(concurrency=50), learner))
    assert max(learner.staleness) <= max_staleness


def test_the_tasks_trained_do_not_depend_on_timing(tmp_path):
    trained = []
    for seed in range(3):
        learner = SimulatedLearner()
        run(tmp_path / str(seed), GRPO, World(SimulatedRollouts(seed=seed), learner))
        trained.append(Counter(learner.trained))
    assert trained[0] == trained[1] == trained[2]
    assert sum(trained[0].values()) == 18


MIXTURE = (Panel("mock/train", TASKS, "c0ffee"), Panel("shop/train", ("a", "b", "c"), "ee"))


def test_a_mixture_trains_equal_shares_and_tells_success_by_environment(tmp_path):
    log, learner = Log(), SimulatedLearner()
    run(tmp_path, GRPO, World(learner=learner, log=log), MIXTURE)
    shop = [task for task in learner.trained if task in MIXTURE[1].task_ids]
    assert (len(shop), len(learner.trained)) == (9, 18)
    assert Counter(shop) == {"a": 3, "b": 3, "c": 3}
    for metrics in log.metrics:
        shares = [metrics[name] for name in ("success/mock", "success/shop") if name in metrics]
        assert shares and min(shares) <= metrics["success"] <= max(shares)
    told = {name for metrics in log.metrics for name in metrics if name.startswith("success/")}
    assert told == {"success/mock", "success/shop"}


def test_a_mixtures_rewards_lie_in_one_table(tmp_path):
    run(tmp_path, GRPO, World(), MIXTURE)
    store = TrajectoryStore(tmp_path / "trajectories")
    for number in range(len(store)):
        for episode in episodes_from_table(store.read(number)[0]):
            assert set(episode.rewards) == {"mock": {"success"}, "shop": {"success", "score"}}[episode.environment]


def test_a_mixture_that_stops_and_resumes_trains_the_same_multiset_of_tasks(tmp_path):
    whole = SimulatedLearner()
    run(tmp_path / "whole", GRPO, World(learner=whole), MIXTURE)
    log = Log()
    first = coordinator(tmp_path / "cut", programme(GRPO, MIXTURE), World(log=log))
    log.at_step = lambda step: first.stop() if step == 3 else None
    with pytest.raises(Interrupted):
        asyncio.run(first.run())
    learner = SimulatedLearner()
    second = coordinator(tmp_path / "cut", programme(GRPO, MIXTURE), World(SimulatedRollouts(seed=9), learner))
    asyncio.run(resume(second, tmp_path / "cut"))
    assert Counter(learner.trained) == Counter(whole.trained)


@pytest.mark.parametrize("stop_at", [1, 2, 5])
def test_stop_and_resume_train_the_same_multiset_of_tasks(tmp_path, stop_at):
    whole = SimulatedLearner()
    run(tmp_path / "whole", GRPO, World(learner=whole))

    log = Log()
    first = coordinator(tmp_path / "cut", programme(GRPO), World(log=log))
    log.at_step = lambda step: first.stop() if step == stop_at else None
    with pytest.raises(Interrupted):
        asyncio.run(first.run())
    assert first.manifest.step == stop_at
    assert first.manifest.frontier.pending or first.manifest.frontier.ready, "something was under way"

    learner, log = SimulatedLearner(), Log()
    second = coordinator(tmp_path / "cut", programme(GRPO), World(SimulatedRollouts(seed=9), learner, log))
    asyncio.run(resume(second, tmp_path / "cut"))
    assert Counter(learner.trained) == Counter(whole.trained)
    assert log.evaluations == ["after_grpo"], "what was evaluated before the stop is not evaluated again"
    assert len(TrajectoryStore(tmp_path / "cut" / "trajectories")) == 6


def test_a_crash_without_warning_resumes_from_the_last_checkpoint(tmp_path):
    whole = SimulatedLearner()
    run(tmp_path / "whole", GRPO, World(learner=whole))

    class CrashingLearner(SimulatedLearner):
        async def train(self, *parts):
            if self.steps == 3:
                raise OSError("killed")
            return await super().train(*parts)

    with pytest.raises(OSError, match="killed"):
        run(tmp_path / "cut", GRPO, World(learner=CrashingLearner()))
    learner = SimulatedLearner()
    asyncio.run(resume(coordinator(tmp_path / "cut", programme(GRPO), World(learner=learner)), tmp_path / "cut"))
    assert Counter(learner.trained) == Counter(whole.trained)


def test_groups_may_finish_while_a_checkpoint_keeps_those_before(tmp_path):
    learner, recorder = SimulatedLearner(slowness_s=0.03), SimulatedRecorder(tmp_path / "trajectories", 0.01)
    loop = coordinator(tmp_path, programme(GRPO), World(SimulatedRollouts(slowness_s=0.05), learner, recorder=recorder))
    asyncio.run(loop.run())
    assert len(learner.trained) == 18


def test_the_step_after_a_checkpoint_tells_what_it_took(tmp_path):
    log = Log()
    saving = programme(GRPO, checkpoint=CheckpointSettings(every=2))
    asyncio.run(coordinator(tmp_path, saving, World(log=log)).run())
    told = [at for at, metrics in enumerate(log.metrics, 1) if "checkpoint_s" in metrics]
    assert told == [3, 5], "after steps 2 and 4; nothing follows the last"


def test_a_checkpoint_has_the_memory_s_snapshot(tmp_path):
    asyncio.run(coordinator(tmp_path, programme(GRPO), World(memory=7)).run())
    assert load_manifest(sound_checkpoint(tmp_path)[0]).memory == 7


def test_steps_do_not_wait_for_the_disk_but_a_checkpoint_does(tmp_path):
    """Only the last of six steps is a checkpoint step: until then parts pile up behind a disk that is slow."""
    log, recorder = Log(), SimulatedRecorder(tmp_path / "trajectories", slowness_s=0.2)
    on_disk: list[int] = []
    log.at_step = lambda step: on_disk.append(len(TrajectoryStore(recorder.directory)))
    keep = CheckpointSettings(every=6)
    loop = coordinator(tmp_path, programme(GRPO, checkpoint=keep), World(log=log, recorder=recorder))
    asyncio.run(loop.run())
    assert on_disk[:BACKLOG] == [0] * BACKLOG
    assert recorder.most_writing == BACKLOG, "and no more than that"
    assert load_manifest(sound_checkpoint(tmp_path)[0]).parts == len(TrajectoryStore(recorder.directory)) == 6


def test_what_the_recorder_says_ends_the_run_before_a_checkpoint_counts_what_is_not_on_disk(tmp_path):
    recorder = SimulatedRecorder(tmp_path / "trajectories", broken="no space left on device")
    loop = coordinator(tmp_path, programme(GRPO), World(recorder=recorder))
    with pytest.raises(RunError, match="no space left on device"):
        asyncio.run(loop.run())
    assert not has_checkpoint(tmp_path)


async def resume(loop: Coordinator, run_dir) -> None:
    await loop.restore(sound_checkpoint(run_dir)[0])
    await loop.run()


def test_a_run_that_begins_anew_forgets_what_was_trained_before(tmp_path):
    learner = SimulatedLearner()
    run(tmp_path, GRPO, World(learner=learner))
    parts = len(TrajectoryStore(tmp_path / "trajectories"))
    run(tmp_path, GRPO, World())
    assert len(TrajectoryStore(tmp_path / "trajectories")) == parts > 0


def test_a_task_whose_episodes_keep_failing_is_given_up_and_replaced(tmp_path):
    log, learner = Log(), SimulatedLearner()
    loop = run(tmp_path, GRPO, World(SimulatedRollouts(failing=frozenset({TASKS[2]})), learner, log))
    assert TASKS[2] not in learner.trained
    assert len(learner.trained) == 18
    assert log.metrics[-1]["groups_filtered"] >= 2 * GRPO.max_attempts
    assert load_manifest(sound_checkpoint(tmp_path)[0]).step == loop.manifest.step == 6


def test_an_error_of_a_rollout_ends_the_run_with_that_error(tmp_path):
    class BrokenRollouts(SimulatedRollouts):
        async def run_group(self, task):
            raise RunError("no rollout actor is left")

    with pytest.raises(RunError, match="no rollout actor is left"):
        run(tmp_path, GRPO, World(BrokenRollouts()))


def test_groups_that_all_fail_are_no_progress(tmp_path):
    schedule = GRPO.model_copy(update={"group_timeout_s": 0.05})
    with pytest.raises(RunError, match=r"no group finished within 0\.05 s .* and \d+ had failed"):
        run(tmp_path, schedule, World(SimulatedRollouts(failing=frozenset(TASKS))))


def test_a_stop_while_the_last_evaluation_runs_leaves_a_checkpoint_that_resumes(tmp_path):
    """The last step is no checkpoint step, so the stop itself must write what the stage has become."""
    learner, log, keep = SimulatedLearner(), Log(), CheckpointSettings(every=4)

    class StoppedWorld(World):
        async def evaluate(self, name: str) -> None:
            if name == "after_grpo":
                first.stop()
                await asyncio.sleep(60)

    first = coordinator(tmp_path, programme(GRPO, checkpoint=keep), StoppedWorld(learner=learner, log=log))
    with pytest.raises(Interrupted):
        asyncio.run(first.run())
    again, log = SimulatedLearner(), Log()
    second = coordinator(tmp_path, programme(GRPO, checkpoint=keep), World(learner=again, log=log))
    asyncio.run(resume(second, tmp_path))
    assert (again.steps, again.trained, log.evaluations) == (6, learner.trained, ["after_grpo"])


def test_a_run_that_is_stopped_before_its_stage_goes_on_keeps_the_ready_groups(tmp_path):
    """Resumed, it first plays the evaluation that the stop before had cut off, and is stopped in it again."""
    whole = SimulatedLearner()
    run(tmp_path / "whole", GRPO, World(learner=whole))
    evaluating = replace(programme(GRPO), evaluation=EvaluationSettings(every=3))

    class StoppedWorld(World):
        async def evaluate(self, name: str) -> None:
            if name == "step_000003":
                self.loop.stop()
                await asyncio.sleep(60)

        loop: Any = None

    for _ in range(2):
        world = StoppedWorld(SimulatedRollouts(slowness_s=0.0))
        world.loop = coordinator(tmp_path / "cut", evaluating, world)
        with pytest.raises(Interrupted):
            asyncio.run(resume(world.loop, tmp_path / "cut") if has_checkpoint(tmp_path / "cut") else world.loop.run())
        assert world.loop.manifest.frontier.ready
    learner = SimulatedLearner()
    asyncio.run(resume(coordinator(tmp_path / "cut", evaluating, World(learner=learner)), tmp_path / "cut"))
    assert Counter(learner.trained) == Counter(whole.trained)


def test_a_batch_that_is_handed_out_while_the_run_is_stopped_is_trained(tmp_path):
    loop = coordinator(tmp_path, programme(GRPO), World())

    async def batch() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "handed out"
        return "never"

    async def stopped() -> str:
        asyncio.get_running_loop().call_soon(loop.stop)
        return await loop._unless_stopped(batch())

    assert asyncio.run(stopped()) == "handed out"


def test_the_wait_for_groups_is_bounded_and_says_what_it_waited_for(tmp_path):
    schedule = GRPO.model_copy(update={"group_timeout_s": 0.05})
    rollouts = SimulatedRollouts(stall=True)
    with pytest.raises(RunError, match=r"no group finished within 0\.05 s while 4 were running"):
        run(tmp_path, schedule, World(rollouts))
    assert rollouts.running == 0, "what ran was cancelled"
