"""How far a game has come: what the reward `progress` is a change of."""

from __future__ import annotations

from typing import Any

from envs.alfworld.native.planner import distance_to_goal

TIME_LIMIT_S = 5.0
"""Seconds of one search; one in some ten thousand states takes longer."""


def met_conditions(engine: Any) -> float:
    """Share of the goal's conditions that are met, in [0, 1]; `engine` is any `GameEngine`."""
    return engine.goal_progress


def covered_way(engine: Any) -> float:
    """Share of the way to the goal that lies behind, by the fewest commands that are still needed: 0 at the start, 1 at
    the goal, negative where the player has gone away from it. `engine` is a `NativeEngine`.

    A state from which no way is found in time counts as the start.
    """
    whole = distance_to_goal(engine.game, engine.game.initial, TIME_LIMIT_S)
    left = distance_to_goal(engine.game, engine.facts, TIME_LIMIT_S)
    return 1.0 - left / whole if whole and left is not None else 0.0
