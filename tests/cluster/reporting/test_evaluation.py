"""Evaluation: whole panels, greedily and sampled, and the file."""

import asyncio
import os
from collections import Counter
from dataclasses import replace
from functools import partial

import pytest

from cluster.loop.tasks import member_seeds
from cluster.reporting.advised import evaluate_advised
from cluster.reporting.estimators import pass_at_k
from cluster.reporting.evaluation import (
    Sampling,
    Subject,
    TaskResult,
    evaluate_panel,
    evaluation_file,
    read_evaluations,
    run_evaluations,
    write_evaluations,
)
from cluster.reporting.evaluation_tables import evaluation_tables, type_tables
from cluster.reporting.kept_rollouts import KeptRollouts
from cluster.reporting.paired import paired_without_experience
from envs.panels import Panel
from experience.advice import Book
from tests.cluster.simulation import SimulatedRollouts
from trajectories.errors import RunError, UserError
from trajectories.files import read_lines

PANEL = Panel("mock/valid", tuple(f"valid/pick_{at % 2}-Mug/trial_{at}" for at in range(10)), "c0ffee")


def test_a_whole_panel_is_played_once_within_the_concurrency():
    rollouts, seen = SimulatedRollouts(concurrency=3, failing=frozenset({PANEL.task_ids[4]})), []
    result = asyncio.run(
        evaluate_panel(rollouts, PANEL, Sampling(), Subject("m"), progress=lambda *at: seen.append(at))
    )
    greedy = result.greedy
    assert [task.task_id for task in greedy.tasks] == list(PANEL.task_ids)
    assert rollouts.most_running == 3 and seen[-1] == (10, 10)
    assert greedy.failed == 1 and not greedy.tasks[4].successes
    assert {kind: rate.episodes for kind, rate in greedy.by_type.items()} == {"pick_0": 5, "pick_1": 5}
    assert sum(rate.wins for rate in greedy.by_type.values()) == greedy.success.wins
    assert result.sampled is None and set(result.outcomes) == {"greedy"}


def test_samples_are_played_beside_the_greedy_pass_and_counted_task_by_task():
    rollouts, seen = SimulatedRollouts(failing=frozenset({PANEL.task_ids[4]})), []
    sampling = Sampling(samples=4, temperature=0.7, seed=1)
    result = asyncio.run(evaluate_panel(rollouts, PANEL, sampling, Subject("m"), progress=lambda *at: seen.append(at)))
    greedy, sampled = result.outcomes.values()
    assert (greedy.temperature, sampled.temperature) == (0.0, 0.7)
    assert greedy == asyncio.run(evaluate_panel(rollouts, PANEL, Sampling(seed=1), Subject("m"))).greedy
    assert [task.task_id for task in sampled.tasks] == list(PANEL.task_ids)
    assert {task.episodes for task in sampled.tasks} == {4} and seen[-1] == (50, 50)
    even = [sum(seed % 2 == 0 for seed in member_seeds(1, at, 4)) for at in range(10)]  # the simulated successes
    even[4] = 0
    assert [task.successes for task in sampled.tasks] == even and len(set(even)) > 2
    assert (sampled.success.wins, sampled.success.episodes, sampled.failed) == (sum(even), 40, 4)
    assert sampled.pass_at == {k: pass_at_k(even, [4] * 10, k) for k in (1, 2, 4)}
    assert sampled.mean_turns == 36 / 40 and sampled.rewards["success"] == sum(even) / 40


def test_an_evaluation_has_the_turn_limit_that_it_is_given():
    class Listening(SimulatedRollouts):
        async def run_group(self, task):
            limits.add(task.max_turns)
            return await super().run_group(task)

    for limit in (None, 80):
        limits: set[int | None] = set()
        asyncio.run(evaluate_panel(Listening(), PANEL, Sampling(max_turns=limit), Subject("m")))
        assert limits == {limit}


def test_every_episode_is_played_at_the_temperature_that_was_asked_for():
    class Listening(SimulatedRollouts):
        async def run_group(self, task):
            asked[task.temperature, len(task.seeds)] += 1
            return await super().run_group(task)

    asked: Counter[tuple[float, int]] = Counter()
    asyncio.run(evaluate_panel(Listening(), PANEL, Sampling(samples=3, temperature=0.7), Subject("m")))
    assert asked == {(0.0, 1): 10, (0.7, 3): 10}


def test_rewards_are_means_over_all_tasks_broken_ones_too():
    panel = Panel("shop/dev", tuple(map(str, range(10))), "c0ffee")
    rollouts = SimulatedRollouts(failing=frozenset({"4"}))
    result = asyncio.run(evaluate_panel(rollouts, panel, Sampling(), Subject("m")))
    wins = result.greedy.success.wins
    assert result.greedy.rewards == pytest.approx({"success": wins / 10, "score": 0.45})
    assert result.greedy.by_type == {}


def test_a_mixture_has_a_table_a_panel_and_scores_where_there_are_some():
    other = Panel("shop/dev", ("1", "2"), "beef")
    results = tuple(
        asyncio.run(evaluate_panel(SimulatedRollouts(), at, Sampling(), Subject("m"))) for at in (PANEL, other)
    )
    first, pairs, second, _ = evaluation_tables({"base": results, "after_sft": results})
    assert "mock/valid" in str(first.title) and "shop/dev" in str(second.title)
    assert first.row_count == second.row_count == 2 and pairs.row_count == 1
    headings = [[column.header for column in table.columns] for table in (first, second)]
    assert "score" not in headings[0] and "score" in headings[1]


def test_rewards_that_say_how_it_was_played_have_columns_unless_they_are_1_throughout():
    result = asyncio.run(evaluate_panel(SimulatedRollouts(), PANEL, Sampling(), Subject("m")))
    told = result.greedy.model_copy(update={"rewards": {"success": 0.5, "action_validity": 0.75}})
    (table,) = evaluation_tables({"base": (result.model_copy(update={"greedy": told}),)})
    cells = {str(column.header): list(column.cells) for column in table.columns}
    assert cells["valid"] == ["0.750"] and "score" not in cells


def test_the_file_keeps_panel_hash_and_limit(tmp_path):
    result = asyncio.run(evaluate_panel(SimulatedRollouts(), PANEL, Sampling(samples=2, seed=2), Subject("m"), limit=4))
    write_evaluations(tmp_path / "out" / "eval.json", (result,))
    (read,) = read_evaluations(tmp_path / "out" / "eval.json")
    assert read == result
    assert (read.panel_hash, read.limit, read.greedy.success.episodes) == ("c0ffee", 4, 4)


def test_an_empty_panel_says_nothing():
    result = asyncio.run(evaluate_panel(SimulatedRollouts(), Panel("mock/x", (), "0"), Sampling(2), Subject("m")))
    assert result.sampled and result.sampled.pass_at == {} and result.sampled.success.high == 1.0
    assert len(evaluation_tables({"base": (result,)})) == 1


def test_what_was_played_is_on_disk_before_the_evaluation_ends(tmp_path):
    class Dying(SimulatedRollouts):
        async def run_group(self, task):
            if task.task_id == PANEL.task_ids[-1]:
                raise RunError("the engine is gone")
            return await super().run_group(task)

    path = tmp_path / "new" / "out.json.played.jsonl"
    with pytest.raises(RunError, match="the engine is gone"):
        asyncio.run(evaluate_panel(KeptRollouts(Dying(concurrency=1), path), PANEL, Sampling(), Subject("m")))
    lines, _ = read_lines(path)
    whole = asyncio.run(evaluate_panel(SimulatedRollouts(), PANEL, Sampling(), Subject("m"))).greedy.tasks
    assert [line.pop("temperature") for line in lines] == [0.0] * 9
    assert [TaskResult.model_validate(line) for line in lines] == list(whole[:9])


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "base.json").write_text('{"evaluations": [')
    with pytest.raises(UserError, match=r"cannot read .*base\.json .*: evaluate again"):
        read_evaluations(tmp_path / "base.json")


def test_experience_is_an_arm_of_the_table_paired_with_the_same_weights_without():
    """Told episodes of even tasks succeed, all others fail."""

    class Following(SimulatedRollouts):
        async def run_group(self, task):
            played = await super().run_group(task)
            told = task.advice is not None and int(task.task_id[-1]) % 2 == 0
            return replace(played, successes=played.members if told else 0)

    evaluate = partial(evaluate_panel, panel=PANEL, sampling=Sampling(samples=2), subject=Subject("m"))
    result = asyncio.run(evaluate_advised(Following(), Book(7), 100, evaluate))
    assert result.memory_snapshot == 7 and result.greedy.success.wins == 5
    assert {way: outcome.success.wins for way, outcome in result.arms.items()} == {
        "greedy": 5,
        "sampled": 10,
        "greedy, no experience": 0,
        "sampled, no experience": 0,
    }
    (pair,) = paired_without_experience({"base": (result,)})
    assert (pair.greedy.won, pair.greedy.lost, pair.against) == (5, 0, "no experience")
    assert pair.sampled and pair.sampled.difference == 0.5
    table, paired = evaluation_tables({"base": (result,)})
    assert table.row_count == 4 and paired.row_count == 1 and "without experience" in str(paired.title)
    assert len(type_tables(result)) == 4


def test_without_experience_nothing_of_an_evaluation_changes():
    result = asyncio.run(evaluate_panel(SimulatedRollouts(), PANEL, Sampling(), Subject("m")))
    assert result.arms == result.outcomes and result.memory_snapshot is None
    assert len(evaluation_tables({"base": (result,)})) == 1


def test_the_evaluations_of_a_copied_run_stand_in_the_order_of_their_weights(tmp_path):
    versions = {"base": 0, "after_sft": 20, "step_000040": 40, "step_000100": 100, "after_grpo": 100}
    for at, (name, version) in enumerate(versions.items()):
        played = asyncio.run(evaluate_panel(SimulatedRollouts(), PANEL, Sampling(), Subject("m", version), limit=1))
        file = evaluation_file(tmp_path, name)
        write_evaluations(file, (played,))
        os.utime(file, (at, at))
    assert list(run_evaluations(tmp_path)) == list(versions)
    for at, name in enumerate(sorted(versions)):  # as a copy has them, whose files were written by their names
        os.utime(evaluation_file(tmp_path, name), (at, at))
    assert [versions[name] for name in run_evaluations(tmp_path)] == [0, 20, 40, 100, 100]
