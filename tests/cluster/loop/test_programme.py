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
