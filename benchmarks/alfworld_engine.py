"""The native ALFWorld engine against stock TextWorld, on the same games and the same commands, in one run.

    python -m benchmarks.alfworld_engine DATA [--games 6] [--steps 30] [--out FILE]

Measured in CPU seconds of this process: load + first reset, steps with admissible commands read after each, and the
resident memory of one more environment with a game of its own. Prints a Markdown table and exits with 1 below the
figures that the engine is held to.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, write_figures
from envs.alfworld.games import OFFICIAL_SPLITS, Game
from envs.alfworld.library import GameLibrary
from envs.alfworld.native.engine import NativeEngine, NativeGame
from envs.alfworld.textworld_engine import TextWorldEngine, TextWorldGame

STEP_RATIO = 50.0
RESET_RATIO = 30.0
MEGABYTES = 25.0
"""What the engine is held to: times faster in steps and in load + reset, most memory of one more environment."""


@dataclass(frozen=True)
class Timing:
    """CPU seconds of each load + first reset, CPU seconds of all steps together, and how many steps these were."""

    resets: list[float]
    stepping: float
    steps: int

    @property
    def reset(self) -> float:
        return statistics.median(self.resets)

    @property
    def rate(self) -> float:
        """Steps per CPU-second."""
        return self.steps / self.stepping


def random_commands(game: Game, steps: int) -> list[str]:
    """The walkthrough, then random admissible commands."""
    choice, engine = random.Random(game.task_id), NativeEngine()
    engine.reset(NativeGame.compile(game.domain, game.problem, game.grammar))
    commands: list[str] = []
    for number in range(steps):
        walkthrough = game.walkthrough or ()
        command = walkthrough[number] if number < len(walkthrough) else choice.choice(engine.admissible_commands)
        engine.step(command)
        commands.append(command)
    return commands


def measure(engine: Any, game_type: Any, games: Sequence[Game], commands: Sequence[Sequence[str]]) -> Timing:
    """Play every game once."""
    resets, stepping, steps = [], 0.0, 0
    for game, script in zip(games, commands, strict=True):
        started = time.process_time()
        engine.reset(game_type.compile(game.domain, game.problem, game.grammar))
        len(engine.admissible_commands)
        resets.append(time.process_time() - started)
        started = time.process_time()
        for command in script:
            engine.step(command)
            len(engine.admissible_commands)
        stepping += time.process_time() - started
        steps += len(script)
    return Timing(resets, stepping, steps)


def megabytes_each(make: Callable[[Game], object], games: Sequence[Game]) -> float:
    """Resident memory of one more environment: the growth over all `games`, each in an environment of its own."""
    kept = [make(games[0])]
    before = _resident_megabytes()
    kept.extend(make(game) for game in games[1:])
    return (_resident_megabytes() - before) / (len(kept) - 1)


def _resident_megabytes() -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def _played(engine: Any, game_type: Any, steps: int) -> Callable[[Game], object]:
    def make(game: Game) -> object:
        environment = engine()
        environment.reset(game_type.compile(game.domain, game.problem, game.grammar))
        for command in random_commands(game, steps):
            environment.step(command)
        return environment

    return make


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="official games: archive or folder")
    parser.add_argument("--games", type=int, default=6, help="games, spread evenly over the set (default 6)")
    parser.add_argument("--steps", type=int, default=30, help="steps in each game (default 30)")
    parser.add_argument("--out", type=Path, help="JSON file")
    return parser


def main() -> int:
    options = make_parser().parse_args()
    library = GameLibrary.open(options.data)
    splits = [split for split in OFFICIAL_SPLITS if split in library.splits()]
    task_ids = [task_id for split in splits for task_id in library.task_ids(split)]
    games = [library.read(task_ids[i * len(task_ids) // options.games]) for i in range(options.games)]
    commands = [random_commands(game, options.steps) for game in games]

    native = measure(NativeEngine(), NativeGame, games, commands)
    native_memory = megabytes_each(_played(NativeEngine, NativeGame, options.steps), games)
    stock = measure(TextWorldEngine(), TextWorldGame, games, commands)
    stock_memory = megabytes_each(_played(TextWorldEngine, TextWorldGame, 1), games[:3])

    resets, steps = stock.reset / native.reset, native.rate / stock.rate
    rows = (
        f"| | stock | native | ratio | held to |\n|---|---|---|---|---|\n"
        f"| load + first reset, CPU s | {stock.reset:.2f} | {native.reset:.4f} | {resets:.0f}x | {RESET_RATIO:.0f}x |\n"
        f"| steps per CPU-second | {stock.rate:.1f} | {native.rate:.0f} | {steps:.0f}x | {STEP_RATIO:.0f}x |\n"
        f"| one more environment, MB | {stock_memory:.1f} | {native_memory:.1f} | | {MEGABYTES:.0f} MB |\n"
    )
    sys.stdout.write(f"{options.games} games, {native.steps} steps with admissible commands\n\n{rows}")
    figures = (
        Figure("load + first reset, native", native.reset, "CPU s"),
        Figure("load + first reset, stock", stock.reset, "CPU s"),
        Figure("load + first reset", resets, "times as fast as stock", at_least=RESET_RATIO),
        Figure("steps, native", native.rate, "a CPU second"),
        Figure("steps, stock", stock.rate, "a CPU second"),
        Figure("steps", steps, "times as many as stock", at_least=STEP_RATIO),
        Figure("one more environment, native", native_memory, "MB", at_most=MEGABYTES),
        Figure("one more environment, stock", stock_memory, "MB"),
    )
    write_figures(options.out, "alfworld_engine", figures)
    return 0 if steps >= STEP_RATIO and resets >= RESET_RATIO and native_memory <= MEGABYTES else 1


if __name__ == "__main__":
    sys.exit(main())
