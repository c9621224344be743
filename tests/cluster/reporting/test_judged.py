"""Evaluations whose answers a judge grades."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cluster.loop.ports import FinishedGroup, GroupTask
from cluster.reporting.evaluation import Sampling, Subject, evaluate_panel
from cluster.reporting.evaluation_tables import evaluation_tables
from cluster.reporting.judged import JudgedRollouts
from envs.panels import Panel
from tests.cluster.simulation import SimulatedRollouts

GRADES = {"task-0": {"judge": 0.9, "judge_unanswered": 0.0}, "task-1": {"judge": 0.5, "judge_unanswered": 1.0}}


class Grades:
    """The grades of a group by its task."""

    async def of_group(self, group: Any) -> dict[str, float]:
        return GRADES[group.episodes["task_id"][0].as_py()]


class Broken(SimulatedRollouts):
    """Nobody ends properly."""

    async def run_group(self, task: GroupTask) -> FinishedGroup:
        return replace(await super().run_group(task), members=0, rewards={}, failed=1)


async def graded(environment: str, rollouts: SimulatedRollouts) -> tuple[Any, list[Any]]:
    looked: list[Any] = []

    async def look(metrics: Any) -> None:
        looked.append(metrics)

    panel = Panel(f"{environment}/test", tuple(GRADES), "c0ffee")
    judged = JudgedRollouts(rollouts, Grades(), look)
    return await evaluate_panel(judged, panel, Sampling(), Subject("m")), looked


async def test_the_grades_of_questions_stand_among_the_rewards() -> None:
    result, looked = await graded("questions", SimulatedRollouts())
    assert result.greedy.rewards["judge"] == pytest.approx(0.7)
    assert result.greedy.rewards["judge_unanswered"] == pytest.approx(0.5)
    assert [task.rewards["judge"] for task in result.greedy.tasks] == [0.9, 0.5]
    assert len(looked) == 2, "so that somebody can say why an answer has no vote"
    (table,) = evaluation_tables({"base": (result,)})
    assert [column.header for column in table.columns][-2:] == ["judge", "turns"]


async def test_other_environments_and_broken_episodes_are_not_graded() -> None:
    for environment, rollouts in (("alfworld", SimulatedRollouts()), ("questions", Broken())):
        result, looked = await graded(environment, rollouts)
        assert not looked and "judge" not in result.greedy.rewards
