"""How well do the two ALFWorld experts play? Plays every game with the explorer and with the shortest plan.

    python -m benchmarks.alfworld_experts DATA [--split train] [--turns 50] [--time-limit 60]

The explorer reads the observations only; the plan is made on the game's state and played by the native engine. Prints a
table, and each game that one of them does not win; exit code 1 if there is one for the planner.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from envs.alfworld.environment import AlfworldEnvironment
from envs.alfworld.games import OFFICIAL_SPLITS, Game
from envs.alfworld.library import GameLibrary
from envs.alfworld.native.engine import NativeEngine, NativeGame
from envs.alfworld.native.planner import PlannerTimeout, Unsolvable, shortest_plan
from envs.experts import play_expert


@dataclass(frozen=True)
class Played:
    """One game by one expert; CPU seconds of its thinking and playing."""

    task_id: str
    won: bool
    turns: int
    cpu_s: float


def explore(environment: AlfworldEnvironment, task_id: str, turns: int) -> Played:
    started = time.process_time()
    steps = play_expert(environment, task_id, max_turns=turns)
    won = steps[-1][2].rewards["success"] == 1.0
    return Played(task_id, won, len(steps), time.process_time() - started)


def follow_plan(game: Game, time_limit_s: float) -> Played:
    compiled = NativeGame.compile(game.domain, game.problem, game.grammar)
    started = time.process_time()
    try:
        plan = shortest_plan(compiled, time_limit_s)
    except (PlannerTimeout, Unsolvable):
        plan = []
    seconds = time.process_time() - started
    engine = NativeEngine()
    engine.reset(compiled)
    for command in plan:
        engine.step(command)
    return Played(game.task_id, engine.won, len(plan), seconds)


def row(split: str, expert: str, played: list[Played]) -> str:
    wins = sum(game.won for game in played)
    turns = sum(game.turns for game in played) / len(played)
    mean, worst = sum(game.cpu_s for game in played) / len(played), max(game.cpu_s for game in played)
    return f"| {split} | {expert} | {wins} of {len(played)} | {turns:.1f} | {mean:.2f} | {worst:.2f} |\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="official games: archive or folder")
    parser.add_argument("--split", action="append", help="a split, may be repeated (default: all official ones)")
    parser.add_argument("--turns", type=int, default=50, help="of the explorer (default 50)")
    parser.add_argument("--time-limit", type=float, default=60.0, help="seconds for one plan (default 60)")
    options = parser.parse_args()
    library = GameLibrary.open(options.data)
    environment = AlfworldEnvironment(library)
    splits = options.split or [split for split in OFFICIAL_SPLITS if split in library.splits()]
    sys.stdout.write("| split | expert | won | turns | mean CPU s | worst CPU s |\n|---|---|---|---|---|---|\n")
    lost: dict[str, list[str]] = {"explorer": [], "planner": []}
    for split in splits:
        task_ids = library.task_ids(split)
        played = {
            "explorer": [explore(environment, task_id, options.turns) for task_id in task_ids],
            "planner": [follow_plan(library.read(task_id), options.time_limit) for task_id in task_ids],
        }
        for expert, games in played.items():
            sys.stdout.write(row(split, expert, games))
            lost[expert] += [game.task_id for game in games if not game.won]
    for expert, games in lost.items():
        sys.stdout.writelines(f"not won by the {expert}: {task_id}\n" for task_id in games)
    return 1 if lost["planner"] else 0


if __name__ == "__main__":
    sys.exit(main())
