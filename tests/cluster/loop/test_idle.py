"""Steps that train nothing are told once, with the reason, and end the run when they go on."""

from __future__ import annotations

import asyncio

import pytest

from cluster.config.sections import ScheduleSettings
from cluster.loop.checkpoint import load_manifest, sound_checkpoint
from cluster.loop.idle import IdleWatch, why
from tests.cluster.simulation import Log, SimulatedLearner, World, coordinator, programme
from trajectories.errors import RunError

PLAYED = {"informative_groups": 0.0, "truncated": 0.0, "length_limited": 0.0, "success": 0.0}


def observed(tokens: list[float], limit: int) -> list[bool]:
    watch = IdleWatch(limit)
    return [watch.observe(PLAYED | {"trained_tokens": count}) is not None for count in tokens]


def test_the_first_idle_step_is_told_once() -> None:
    assert observed([5, 0, 0, 7, 0, 5], limit=3) == [False, True, False, False, False, False]


def test_idle_steps_in_a_row_end_the_run() -> None:
    assert observed([0, 0, 1, 0, 0, 1], limit=3)
    with pytest.raises(RunError, match=r"^no token was trained in 3 steps in a row \(schedule\.max_idle\): 0% of its "):
        observed([0, 0, 1, 0, 0, 0], limit=3)


@pytest.mark.parametrize(
    ("metrics", "parts"),
    [
        ({"truncated": 1.0, "length_limited": 0.75}, ["75% of its episodes", "rollout.engine.max_model_len"]),
        ({"truncated": 1.0, "length_limited": 0.25}, ["75% of its episodes", "rollout.max_turns"]),
        ({"success": 1.0}, ["100% of its episodes succeeded", "schedule.group_size", "schedule.temperature"]),
        ({"informative_groups": 0.5}, ["50% of its groups", "grpo.weight"]),
    ],
)
def test_the_reason_has_its_share_and_a_setting(metrics: dict[str, float], parts: list[str]) -> None:
    line = why(PLAYED | metrics)
    assert all(part in line for part in parts) and "\n" not in line


def test_imitation_without_weight_is_named() -> None:
    assert "sft.weight" in why({"trained_tokens": 0.0})


def test_a_run_that_trains_nothing_says_so_and_stops_with_its_checkpoint(tmp_path) -> None:
    said: list[str] = []

    class SpokenLog(Log):
        def say(self, line: str) -> None:
            said.append(line)

    schedule = ScheduleSettings(grpo_steps=9, groups_per_step=2, group_size=2, max_idle=4)
    log = SpokenLog()
    loop = coordinator(tmp_path, programme(schedule), World(learner=SimulatedLearner(tokens=0.0), log=log))
    with pytest.raises(RunError, match="no token was trained in 4 steps in a row"):
        asyncio.run(loop.run())
    (line,) = said
    assert line.startswith("  step 1: no token was trained: ")
    assert len(log.metrics) == 4 and load_manifest(sound_checkpoint(tmp_path)[0]).step == 4
    assert all((metrics["groups"], metrics["episodes"]) == (2, 4) for metrics in log.metrics)
