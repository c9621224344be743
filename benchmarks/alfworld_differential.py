"""Does the native ALFWorld engine answer as stock TextWorld does? Plays both side by side.

    python -m benchmarks.alfworld_differential DATA [--games 100] [--report FILE]

Every game is played along its walkthrough and then for some random steps, a part of them inadmissible or nonsense.
Compared after each step: the answer, the admissible commands with their order, score and won. Translations by Fast
Downward and parses of templates are remembered while stock runs: both are pure functions of their texts, and without
that the full set takes most of a day.
"""

from __future__ import annotations

import argparse
import functools
import json
import pickle
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from envs.alfworld.games import OFFICIAL_SPLITS, Game
from envs.alfworld.library import GameLibrary
from envs.alfworld.native.engine import NativeEngine, NativeGame
from envs.alfworld.textworld_engine import TextWorldEngine, TextWorldGame

NONSENSE = (
    "",
    " ",
    "xyzzy",
    "go to",
    "take",
    "GO TO bed 1",
    "go to  desk 1",
    "examine",
    "use ",
    "look around",
    "  look  ",
)
OTHER_COMMANDS = 0.25
"""Share of random steps that are nonsense or a command that was admissible earlier."""


@contextmanager
def pure_functions_remembered() -> Iterator[None]:
    """Let stock TextWorld translate each problem, and parse each template, once."""
    import fast_downward  # pyright: ignore[reportMissingImports]
    from textworld.envs.pddl import textgen  # pyright: ignore[reportMissingImports]

    translate, parse = fast_downward.pddl2sas, textgen._parse_and_convert

    @functools.lru_cache(maxsize=2)
    def translated(domain: str, problem: str):
        return translate(domain, problem)

    def pddl2sas(domain: str, problem: str, verbose: bool = False, optimize: bool = False):
        # The optimised translation serves the planner only, which nothing here asks for.
        return (None, "") if optimize else translated(domain, problem)

    @functools.lru_cache(maxsize=10_000)
    def parsed(text: str, rule_name: str) -> bytes:
        return pickle.dumps(parse(text, rule_name=rule_name))

    def parse_and_convert(text: str, rule_name: str = "symbols", **_: object):
        return pickle.loads(parsed(text, rule_name))

    with (
        patch.object(fast_downward, "pddl2sas", pddl2sas),
        patch.object(textgen, "_parse_and_convert", parse_and_convert),
    ):
        yield


def differences(game: Game, stock: TextWorldEngine, random_steps: int, seed: int) -> Iterator[str]:
    """Play one game with both engines; yields what differs, until the first step that does."""
    native = NativeEngine()
    answers = (
        native.reset(NativeGame.compile(game.domain, game.problem, game.grammar)),
        stock.reset(TextWorldGame.compile(game.domain, game.problem, game.grammar)),
    )
    choice = random.Random(f"{seed} {game.task_id}")
    walkthrough = list(game.walkthrough or ())
    earlier: list[str] = [*NONSENSE]
    done: list[str] = []
    for step in range(len(walkthrough) + random_steps + 1):
        ours = (answers[0], native.admissible_commands, native.won, native.score)
        theirs = (answers[1], stock.admissible_commands, stock.won, stock.score)
        for name, mine, other in zip(("answer", "admissible commands", "won", "score"), ours, theirs, strict=True):
            if mine != other:
                yield f"{game.task_id}: {name} after {done}: native {mine!r}, stock {other!r}"
        if ours != theirs:
            return
        earlier.extend(choice.sample(native.admissible_commands, 1))
        if step < len(walkthrough):
            command = walkthrough[step]
        elif choice.random() < OTHER_COMMANDS:
            command = choice.choice(earlier)
        else:
            command = choice.choice(native.admissible_commands)
        done.append(command)
        answers = native.step(command), stock.step(command)
    if walkthrough and game.walkthrough and not _wins(game):
        yield f"{game.task_id}: the walkthrough does not win"


def _wins(game: Game) -> bool:
    engine = NativeEngine()
    engine.reset(NativeGame.compile(game.domain, game.problem, game.grammar))
    return any([(engine.step(command), engine.won)[1] for command in game.walkthrough or ()])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="official games: archive or folder")
    parser.add_argument("--games", type=int, help="only so many, spread evenly over the set")
    parser.add_argument("--split", action="append", help="a split, may be repeated (default: all official ones)")
    parser.add_argument("--steps", type=int, default=30, help="random steps after the walkthrough (default 30)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=Path, help="JSON lines, one a game, appended as they are done")
    options = parser.parse_args()
    library = GameLibrary.open(options.data)
    splits = options.split or [split for split in OFFICIAL_SPLITS if split in library.splits()]
    task_ids = [task_id for split in splits for task_id in library.task_ids(split)]
    if options.games:
        task_ids = task_ids[:: max(1, len(task_ids) // options.games)][: options.games]
    with pure_functions_remembered():
        total = sum(_compare(library.read(task_id), options) for task_id in task_ids)
    sys.stdout.write(f"{len(task_ids)} games, {total} differences\n")
    return 1 if total else 0


def _compare(game: Game, options: argparse.Namespace) -> int:
    started = time.perf_counter()
    found = list(differences(game, stock_engine(), options.steps, options.seed))
    line = {"game": game.task_id, "differences": found, "seconds": round(time.perf_counter() - started, 2)}
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()
    if options.report:
        with options.report.open("a") as report:
            report.write(json.dumps(line) + "\n")
    return len(found)


@functools.cache
def stock_engine() -> TextWorldEngine:
    """The one stock environment of this process."""
    return TextWorldEngine()


if __name__ == "__main__":
    sys.exit(main())
