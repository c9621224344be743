"""Evaluation: the Wilson interval against its definition, whole panels, and the file."""

import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.reporting.evaluation import (
    Sampling,
    Subject,
    evaluate_panel,
    read_evaluations,
    task_type,
    wilson_rate,
    write_evaluations,
)
from cluster.reporting.evaluation_tables import evaluation_tables
from envs.panels import Panel
from tests.cluster.simulation import SimulatedRollouts

PANEL = Panel("mock/valid", tuple(f"valid/pick_{at % 2}-Mug/trial_{at}" for at in range(10)), "c0ffee")


@given(st.integers(1, 500), st.data())
def test_wilson_bounds_are_the_roots_of_its_equation(tasks, data):
    wins = data.draw(st.integers(0, tasks))
    rate = wilson_rate(wins, tasks)
    for bound in (rate.low, rate.high):
        error = np.sqrt(bound * (1 - bound) / tasks) * 1.959963984540054
        assert abs(rate.rate - bound) == pytest.approx(error, abs=1e-7)


def test_wilson_known_value_and_no_tasks():
    rate = wilson_rate(64, 128)
    assert (round(rate.low, 4), round(rate.high, 4)) == (0.4147, 0.5853)
    assert (wilson_rate(0, 0).low, wilson_rate(0, 0).high) == (0.0, 1.0)


def test_a_whole_panel_is_played_once_within_the_concurrency():
    rollouts, seen = SimulatedRollouts(concurrency=3, failing=frozenset({PANEL.task_ids[4]})), []
    result = asyncio.run(
        evaluate_panel(rollouts, PANEL, Sampling(0.0), Subject("m"), progress=lambda *at: seen.append(at))
    )
    assert [task.task_id for task in result.tasks] == list(PANEL.task_ids)
    assert rollouts.most_running == 3 and seen[-1] == (10, 10)
    assert result.failed == 1 and not result.tasks[4].success
    assert {kind: rate.tasks for kind, rate in result.by_type.items()} == {"pick_0": 5, "pick_1": 5}
    assert sum(rate.wins for rate in result.by_type.values()) == result.success.wins


def test_an_evaluation_has_the_turn_limit_that_it_is_given():
    class Listening(SimulatedRollouts):
        async def run_group(self, task):
            limits.add(task.max_turns)
            return await super().run_group(task)

    for limit in (None, 80):
        limits: set[int | None] = set()
        asyncio.run(evaluate_panel(Listening(), PANEL, Sampling(0.0, max_turns=limit), Subject("m")))
        assert limits == {limit}


def test_rewards_are_means_over_all_tasks_broken_ones_too():
    panel = Panel("shop/dev", tuple(map(str, range(10))), "c0ffee")
    rollouts = SimulatedRollouts(failing=frozenset({"4"}))
    result = asyncio.run(evaluate_panel(rollouts, panel, Sampling(0.0), Subject("m")))
    assert result.rewards == pytest.approx({"success": result.success.wins / 10, "score": 0.45})
    assert result.by_type == {}


def test_a_mixture_has_a_table_a_panel_and_scores_where_there_are_some():
    other = Panel("shop/dev", ("1", "2"), "beef")
    results = tuple(
        asyncio.run(evaluate_panel(SimulatedRollouts(), at, Sampling(0.0), Subject("m"))) for at in (PANEL, other)
    )
    first, second = evaluation_tables({"base": results, "after_sft": results})
    assert "mock/valid" in str(first.title) and "shop/dev" in str(second.title)
    assert first.row_count == second.row_count == 2
    headings = [[column.header for column in table.columns] for table in (first, second)]
    assert "mean score" not in headings[0] and "mean score" in headings[1]


def test_the_file_keeps_panel_hash_and_limit(tmp_path):
    result = asyncio.run(evaluate_panel(SimulatedRollouts(), PANEL, Sampling(1.0, seed=2), Subject("m"), limit=4))
    write_evaluations(tmp_path / "out" / "eval.json", (result,))
    (read,) = read_evaluations(tmp_path / "out" / "eval.json")
    assert read == result
    assert (read.panel_hash, read.limit, read.success.tasks) == ("c0ffee", 4, 4)


def test_task_types_come_from_the_game_folder():
    assert task_type("valid_seen/look_at_obj_in_light-Mug-None-Desk-308/trial_1") == "look_at_obj_in_light"
    assert task_type("17") is None
