"""What a group plays is a pure function of its position."""

from __future__ import annotations

import pytest

from cluster.config.sections import ScheduleSettings, TemperatureSettings
from tests.cluster.simulation import programme


def test_the_temperature_follows_its_ramp_by_position():
    schedule = ScheduleSettings(
        grpo_steps=6, groups_per_step=2, temperature=TemperatureSettings(start=1.2, end=0.8, steps=4)
    )
    tasks = [programme(schedule).group_task(0, position) for position in range(12)]
    by_hand = [1.2, 1.2, 1.1, 1.1, 1.0, 1.0, 0.9, 0.9, 0.8, 0.8, 0.8, 0.8]
    assert [task.temperature for task in tasks] == pytest.approx(by_hand)
    assert all(task.max_turns is None for task in tasks), "training has the limit of the rollout actors"


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_steps_and_epochs_of_one_stage_are_refused(stage):
    with pytest.raises(ValueError, match=f"{stage}_steps=3 and {stage}_epochs=2 both say how long .* set one of them"):
        ScheduleSettings.model_validate({"grpo_steps": 0, f"{stage}_steps": 3, f"{stage}_epochs": 2})


def test_a_stage_of_epochs_has_the_steps_that_its_data_take():
    schedule = ScheduleSettings(sft_epochs=3, sft_batch=4, grpo_steps=0, grpo_epochs=2, groups_per_step=5)
    assert [(stage.name, stage.steps) for stage in schedule.stages(10, 7)] == [("sft", 8), ("grpo", 3)]
    assert schedule.plays and schedule.demonstrates
