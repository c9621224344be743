"""Environments of the real `verifiers` package (which is none of Concerto's own: `pip install "verifiers<0.4"`)."""

from __future__ import annotations

import pytest

from envs import heldout_panel, make_environment, training_panel
from envs.base import Environment
from trajectories.errors import UserError

pytest.importorskip("verifiers", reason="verifiers is not installed")
pytest.importorskip("verifiers.clients", reason="verifiers from 0.4 on has another interface")

HERE = "tests.envs.adapters.rubrics"


def test_a_single_turn_is_scored_by_every_function_of_the_rubric() -> None:
    environment = make_environment(f"{HERE}.single")
    assert isinstance(environment, Environment)
    assert environment.reward_names[:4] == ("success", "score", "right", "brief")
    for said, won in (("6", 1.0), ("7", 0.0)):
        observation = environment.reset("train/4")
        assert observation.text == "Count.\n\nAdd 1 to 5."
        step = environment.step(said)
        assert step.done and tuple(step.rewards) == environment.reward_names
        assert [step.rewards[name] for name in ("success", "score", "right", "brief")] == [won, won, won, 1.0]
    with pytest.raises(RuntimeError, match="reset first"):
        environment.step("7")


def test_several_turns_are_the_environments_own_and_earn_at_their_end() -> None:
    environment = make_environment(f"{HERE}.multi")
    environment.reset("dev/0")
    wrong = environment.step("5")
    assert (wrong.observation.text, wrong.done, set(wrong.rewards.values())) == ("Not 5.", False, {0.0})
    right = environment.step("1")
    assert right.done and (right.rewards["success"], right.rewards["tries"]) == (1.0, 2.0)
    assert len({wrong.info["state_hash"], right.info["state_hash"]}) == 2


def test_its_turn_limit_ends_an_episode_and_another_begins_afresh() -> None:
    environment = make_environment(f"{HERE}.multi")
    environment.reset("dev/0")
    results = [environment.step("no") for _ in range(3)]
    assert [result.done for result in results] == [False, False, True] and results[-1].rewards["success"] == 0.0
    environment.reset("dev/1"), environment.step("x")
    environment.reset("dev/1")
    first = environment.step("x").info["state_hash"]
    environment.reset("dev/1")
    assert environment.step("x").info["state_hash"] == first, "equal conversations are equal states"
    environment.close()


def test_episodes_at_once_do_not_mix() -> None:
    one, other = make_environment(f"{HERE}.multi"), make_environment(f"{HERE}.multi")
    assert one.reset("dev/0").text == "Add 1 to 0." and other.reset("dev/1").text == "Add 1 to 10."
    assert one.step("9").observation.text == "Not 9."
    assert other.step("11").rewards["success"] == one.step("1").rewards["success"] == 1.0


def test_rows_are_tasks_and_a_tenth_is_kept_where_nothing_is_for_evaluation() -> None:
    train, dev = training_panel(f"{HERE}.single"), heldout_panel(f"{HERE}.single")
    assert (len(train.task_ids), len(dev.task_ids), train.test or dev.test) == (18, 2, False)
    environment = make_environment(f"{HERE}.single")
    shown = [environment.reset(task).text for panel in (train, dev) for task in panel.task_ids]
    assert len(set(shown)) == 20
    assert len(heldout_panel(f"{HERE}.evaluated").task_ids) == 3
    assert len(training_panel(f"{HERE}.evaluated").task_ids) == 20
    assert train.hash == training_panel(f"{HERE}.single").hash != training_panel(f"{HERE}.evaluated").hash


def test_what_breaks_costs_the_episode() -> None:
    environment = make_environment(f"{HERE}.broken")
    environment.reset("train/0")
    with pytest.raises(RuntimeError, match="the tool is gone"):
        environment.step("x")


@pytest.mark.parametrize("task", ["train/20", "train/x", "test/0", "train"])
def test_a_task_that_there_is_not_is_told(task: str) -> None:
    with pytest.raises(UserError, match="task ids read like train/0"):
        make_environment(f"{HERE}.single").reset(task)


def test_what_cannot_be_played_is_told_in_one_line() -> None:
    with pytest.raises(UserError, match="compares the rollouts of a group"):
        make_environment(f"{HERE}.grouped")
    with pytest.raises(UserError, match="leave out data"):
        make_environment(f"{HERE}.single", "DIR")
