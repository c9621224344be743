"""Stages as long as epochs over what was routed to them, through stops, dynamic sampling and tasks that fail."""

import asyncio
from collections import Counter

import pytest

from cluster.config.sections import ScheduleSettings
from cluster.loop.coordinator import Interrupted
from tests.cluster.loop.test_coordinator import MIXTURE, resume, run
from tests.cluster.simulation import TASKS, Log, SimulatedLearner, SimulatedRollouts, World, coordinator, programme

EPOCHS = ScheduleSettings(
    sft_epochs=2, grpo_steps=0, grpo_epochs=3, groups_per_step=4, group_size=2, sft_batch=8, max_skipped=5
)
"""Two walks through ten demonstrations, three through the seven and three tasks of the mixture."""


def played_tasks(rollouts: SimulatedRollouts) -> list[str]:
    """Remembers what is played, from now on."""
    played: list[str] = []
    run_group = rollouts.run_group

    async def remembering(task):
        finished = await run_group(task)
        played.append(task.task_id)
        return finished

    rollouts.run_group = remembering  # pyright: ignore[reportAttributeAccessIssue]
    return played


@pytest.mark.parametrize("dynamic_sampling", [False, True])
def test_epochs_imitate_every_row_and_play_every_task_of_unequal_panels_as_often_as_they_say(
    tmp_path, dynamic_sampling
):
    schedule = EPOCHS.model_copy(update={"dynamic_sampling": dynamic_sampling})
    learner, rollouts, log = SimulatedLearner(), SimulatedRollouts(), Log()
    played = played_tasks(rollouts)
    run(tmp_path, schedule, World(rollouts, learner, log), MIXTURE)
    assert Counter(learner.rows) == dict.fromkeys(range(10), 2)
    assert Counter(played) == dict.fromkeys([*TASKS, "a", "b", "c"], 3)
    last = log.metrics[-1]
    assert last["groups_accepted"] + last["groups_skipped"] == 30 == last["groups_submitted"]
    assert len(learner.trained) == last["groups_accepted"]
    assert (last["groups_skipped"] > 0) is dynamic_sampling
    assert learner.steps == 3 + -(-len(learner.trained) // 4), "the last batch is what is left"
    assert log.evaluations == ["base", "after_sft", "after_grpo"]


@pytest.mark.parametrize("stop_at", [2, 4, 7])
@pytest.mark.parametrize("dynamic_sampling", [False, True])
def test_epochs_that_stop_and_resume_train_what_an_uninterrupted_run_trains(tmp_path, dynamic_sampling, stop_at):
    schedule = EPOCHS.model_copy(update={"dynamic_sampling": dynamic_sampling})
    whole = SimulatedLearner()
    run(tmp_path / "whole", schedule, World(learner=whole))
    log = Log()
    first = coordinator(tmp_path / "cut", programme(schedule), World(log=log))
    log.at_step = lambda step: first.stop() if step == stop_at else None
    with pytest.raises(Interrupted):
        asyncio.run(first.run())
    learner = SimulatedLearner()
    second = coordinator(tmp_path / "cut", programme(schedule), World(SimulatedRollouts(seed=9), learner))
    asyncio.run(resume(second, tmp_path / "cut"))
    assert learner.rows == whole.rows
    assert Counter(learner.trained) == Counter(whole.trained)


def test_epochs_end_where_the_last_tasks_keep_failing(tmp_path):
    """Nobody waits for groups that will never come."""
    learner = SimulatedLearner()
    schedule = EPOCHS.model_copy(update={"sft_epochs": 0, "grpo_epochs": 1, "group_timeout_s": 5.0})
    run(tmp_path, schedule, World(SimulatedRollouts(failing=frozenset(TASKS[1:])), learner))
    assert learner.trained == [TASKS[0]] and learner.steps == 1


def test_epochs_in_which_every_task_fails_train_nothing_and_end(tmp_path):
    learner = SimulatedLearner()
    schedule = EPOCHS.model_copy(update={"sft_epochs": 0, "grpo_epochs": 1, "group_timeout_s": 5.0})
    run(tmp_path, schedule, World(SimulatedRollouts(failing=frozenset(TASKS)), learner))
    assert learner.trained == [] and learner.steps == 0
