"""ALFWorld behind the common face: observations, named rewards, the end of an episode."""

from __future__ import annotations

from typing import Any

import pytest

from envs import load_panel, make_environment
from envs.alfworld import environment as games
from envs.alfworld.environment import AlfworldEnvironment
from envs.alfworld.library import GameLibrary
from envs.alfworld.native.engine import NativeGame
from envs.alfworld.settings import AlfworldSettings
from envs.base import Environment
from tests.envs.alfworld.test_games import TASK, write_games
from trajectories.errors import UserError

HELDOUT = "alfworld/generated/heldout"


@pytest.fixture(scope="module")
def task_id() -> str:
    return load_panel(HELDOUT).task_ids[3]


def test_it_is_an_environment() -> None:
    environment = make_environment("alfworld")
    assert isinstance(environment, Environment) and environment.reward_names[0] == "success"


def test_the_first_text_is_textworlds_with_its_banner(task_id: str) -> None:
    observation = make_environment("alfworld").reset(task_id, seed=0)
    assert observation.text.startswith("-= Welcome to TextWorld, ALFRED! =-\n\nYou are in the middle of a room.")
    assert "\n\nYour task is to: " in observation.text
    assert {"help", "inventory", "look"} < set(observation.admissible_actions)
    assert list(observation.admissible_actions) == sorted(observation.admissible_actions)


def test_the_recorded_plan_wins_and_rewards_add_up(task_id: str) -> None:
    environment = make_environment("alfworld")
    environment.reset(task_id)
    plan = GameLibrary.open().read(task_id).walkthrough
    assert plan
    results = [environment.step(command) for command in plan]
    assert [result.rewards["success"] for result in results] == [0.0] * (len(plan) - 1) + [1.0]
    assert [result.done for result in results] == [False] * (len(plan) - 1) + [True]
    assert all(set(result.rewards) == set(environment.reward_names) for result in results)
    assert 0.0 < sum(result.rewards["progress"] for result in results) <= 1.0
    assert results[-1].rewards["efficiency"] == pytest.approx(1 - (len(plan) - 1) / 50)
    with pytest.raises(RuntimeError, match="call reset"):
        environment.step("look")


@pytest.mark.parametrize(
    ("action", "well_formed", "valid"),
    [("look", 1.0, 1.0), (" look\n", 1.0, 1.0), ("fly", 1.0, 0.0), ("", 0.0, 0.0), ("look\nlook", 0.0, 0.0)],
)
def test_format_and_validity(task_id: str, action: str, well_formed: float, valid: float) -> None:
    environment = make_environment("alfworld")
    environment.reset(task_id)
    result = environment.step(action)
    assert (result.rewards["format"], result.rewards["action_validity"]) == (well_formed, valid)
    assert result.info["action_valid"] is bool(valid)
    if not valid:
        assert result.observation.text == "Nothing happens."


def test_equal_states_have_equal_hashes(task_id: str) -> None:
    environment = make_environment("alfworld")
    first = next(action for action in environment.reset(task_id).admissible_actions if action.startswith("go to"))
    hashes = []
    for _ in range(2):
        environment.reset(task_id)
        hashes.append([environment.step(action).info["state_hash"] for action in ("fly", first, "fly")])
    (before, after, again), repeated = hashes
    assert hashes[0] == repeated and before != after == again


def test_progress_by_distance_is_the_share_of_the_way_that_a_step_covers(task_id: str) -> None:
    environment = make_environment("alfworld", settings=AlfworldSettings(progress="distance"))
    environment.reset(task_id)
    plan = GameLibrary.open().read(task_id).walkthrough
    assert plan
    steps = [environment.step(command).rewards["progress"] for command in plan]
    assert steps == pytest.approx([1 / len(plan)] * len(plan))
    environment.reset(task_id)
    goes, idles = environment.step(plan[0]).rewards["progress"], environment.step("inventory").rewards["progress"]
    away = environment.step(next(go for go in _goes(environment) if go != plan[0])).rewards["progress"]
    assert goes > 0 and idles == 0 and away <= 0


def _goes(environment: Any) -> list[str]:
    return [action for action in environment._engine.admissible_commands if action.startswith("go to")]


def test_unknown_tasks_are_refused_and_distances_that_textworld_does_not_know() -> None:
    with pytest.raises(UserError, match="not among the games"):
        make_environment("alfworld").reset("generated/train/nothing/here")
    with pytest.raises(UserError, match="knows no distances"):
        AlfworldEnvironment.open(settings=AlfworldSettings(engine="textworld", progress="distance"))


def test_stepping_before_reset_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="call reset"):
        make_environment("alfworld").step("look")


def test_stock_textworld_plays_the_same(task_id: str) -> None:
    pytest.importorskip("textworld", reason="needs the extra 'reference'")
    plan = GameLibrary.open().read(task_id).walkthrough or ()
    native, stock = (
        make_environment("alfworld"),
        make_environment("alfworld", settings=AlfworldSettings(engine="textworld")),
    )
    assert native.reset(task_id) == stock.reset(task_id)
    for action in ("fly", "look", *plan):
        ours, theirs = native.step(action), stock.step(action)
        assert (ours.observation, ours.done) == (theirs.observation, theirs.done)
        assert ours.rewards["success"] == theirs.rewards["success"]


def test_the_members_of_a_group_share_one_compiled_game(task_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    original = NativeGame.compile
    monkeypatch.setattr(NativeGame, "compile", lambda *texts: compiled.append(task_id) or original(*texts))
    games._compiled.cache_clear()
    members = [make_environment("alfworld") for _ in range(3)]
    openings = {member.reset(task_id, seed=0).text for member in members}
    assert len(openings) == 1 and len(compiled) == 1
    members[0].step("look")
    assert members[1].reset(task_id, seed=0).text in openings
    members[0].close()
    assert members[1].reset(task_id, seed=0).text in openings and len(compiled) == 1


@pytest.mark.parametrize(
    ("part", "old", "new", "fix"),
    [
        ("pddl_problem", "(:init", "(:init (openable nothing)) (:init", "fetch the games again with `concerto data"),
        ("pddl_problem", "(:init", "(:init ((x) y)", "fetch the games again with `concerto data alfworld`"),
        ("pddl_problem", "(:objects", "(:objects :objects () (", "fetch the games again with `concerto data alfworld`"),
        (
            "pddl_domain",
            "(:action look",
            "(:constraints) (:action look",
            "else set environments.alfworld.engine=textworld",
        ),
    ],
)
def test_a_damaged_game_is_told_by_its_name(tmp_path, task_id: str, part: str, old: str, new: str, fix: str) -> None:
    fine = GameLibrary.open().read(task_id)
    content = {"pddl_domain": fine.domain, "pddl_problem": fine.problem, "grammar": fine.grammar, "solvable": True}
    assert old in content[part]  # type: ignore[operator]
    content[part] = content[part].replace(old, new, 1)  # type: ignore[union-attr]
    environment = make_environment("alfworld", write_games(tmp_path, TASK, **content))
    with pytest.raises(UserError, match=f"the game {TASK} cannot be played .*{fix}") as told:
        environment.reset(TASK)
    assert "\n" not in str(told.value)
