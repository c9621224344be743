"""Plans are shortest, win, and come with a word when there is none."""

from __future__ import annotations

import pytest

from envs.alfworld.games import TASK_TYPES
from envs.alfworld.library import GameLibrary
from envs.alfworld.native.engine import NOTHING_HAPPENS, NativeGame
from envs.alfworld.native.planner import PlannerTimeout, Unsolvable, shortest_plan
from tests.data import ALFWORLD_MINI, require
from tests.envs.alfworld.native_reference import Reference
from tests.envs.alfworld.native_rooms import GOALS, NEVER, compiled, generated, room, started


@pytest.mark.parametrize("goal", GOALS)
def test_plans_are_as_short_as_breadth_first_search_finds(goal: str) -> None:
    game = compiled(room(GOALS[goal]))
    plan = shortest_plan(game, time_limit_s=30)
    assert len(plan) == Reference.read(generated()[0].domain, room(GOALS[goal])).shortest()
    assert_wins(game, plan)


def test_plans_win_the_official_games_of_all_types() -> None:
    library = GameLibrary.open(require(ALFWORLD_MINI))
    types = set()
    for split in ("train", "valid_seen", "valid_unseen"):
        for task_id in library.task_ids(split):
            official = library.read(task_id)
            game = NativeGame.compile(official.domain, official.problem, official.grammar)
            plan = shortest_plan(game, time_limit_s=60)
            assert_wins(game, plan)
            assert len(plan) <= len(official.walkthrough or plan)
            types.add(official.task_type)
    assert types == set(TASK_TYPES)


def test_an_unsolvable_game_is_recognised() -> None:
    with pytest.raises(Unsolvable):
        shortest_plan(compiled(room(NEVER)), time_limit_s=30)


def test_the_time_limit_is_kept() -> None:
    with pytest.raises(PlannerTimeout):
        shortest_plan(compiled(room(GOALS["two"])), time_limit_s=0.0)


def assert_wins(game: NativeGame, plan: list[str]) -> None:
    engine = started(game)
    assert NOTHING_HAPPENS not in [engine.step(command) for command in plan]
    assert engine.won
