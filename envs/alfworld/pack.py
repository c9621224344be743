"""The embedded pack of generated games: solvable games with a recorded plan each, in one compressed file.

The file is xz-compressed JSON lines. The first line holds what all games share, domain and grammar; each other line is
one game: task id, task sentence, PDDL problem, plan. `python -m envs.alfworld.build_pack` makes it.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from envs.alfworld.games import GENERATED_SPLITS, Game, split_of
from trajectories.errors import UserError
from trajectories.files import written_aside

PACK_FILE = Path(__file__).parent / "data" / "generated_games.jsonl.xz"
TASK_SLOT = "UNKNOWN GOAL"
"""Where the wheel's grammar wants the task sentence."""

ID_KEY = '{"id": "'


class PackSource:
    """The embedded games; the file is read when the first of them is asked for, once in a process."""

    def splits(self) -> tuple[str, ...]:
        return GENERATED_SPLITS

    def task_ids(self, split: str) -> tuple[str, ...]:
        """In the order of generation: task types and room sizes take turns, so any prefix is a fair sample."""
        return tuple(task_id for task_id in _load(PACK_FILE)[1] if split_of(task_id) == split)

    def why_empty(self, *splits: str) -> str:
        """Whatever was generated can be played, so the file itself has none."""
        return f"the embedded games at {PACK_FILE} are damaged; reinstall concerto"

    def read(self, task_id: str) -> Game | None:
        if not task_id.startswith("generated/"):
            return None
        (domain, grammar), games = _load(PACK_FILE)
        if task_id not in games:
            return None
        record = json.loads(games[task_id])
        return Game(
            task_id=task_id,
            domain=domain,
            problem=record["problem"],
            grammar=grammar.replace(TASK_SLOT, record["sentence"]),
            walkthrough=tuple(record["plan"]),
            task_type=task_id.split("/")[-2].split("-")[0],
        )


@cache
def _load(path: Path) -> tuple[tuple[str, str], dict[str, str]]:
    """((domain, grammar), task id → its line)."""
    try:
        with lzma.open(path, "rt", encoding="utf-8") as file:
            shared = json.loads(file.readline())
            # Every line begins with its id, so that the games themselves are parsed only when they are played.
            games = {line[len(ID_KEY) :].split('"', 1)[0]: line for line in file}
    except (OSError, EOFError, lzma.LZMAError, ValueError) as error:
        raise UserError(f"the embedded games at {path} cannot be read ({error}); reinstall concerto") from error
    return (shared["domain"], shared["grammar"]), games


def write_pack(path: Path, domain: str, grammar: str, games: Iterable[tuple[Game, str]]) -> None:
    """Write (game, task sentence) pairs as a pack; written aside and renamed."""
    lines = [json.dumps({"domain": domain, "grammar": grammar})]
    for game, sentence in games:
        plan = list(game.walkthrough or ())
        lines.append(json.dumps({"id": game.task_id, "sentence": sentence, "plan": plan, "problem": game.problem}))
    with written_aside(path) as aside:
        aside.write_bytes(lzma.compress("\n".join(lines).encode(), preset=9 | lzma.PRESET_EXTREME))
