"""Game files: `Game`, `parse_game`, and what a task id tells.

A `game.tw-pddl` file is JSON that holds its PDDL domain, its PDDL problem and its text grammar: nothing else is needed
to play. Task ids are `split/game folder/trial folder`, for example
`valid_seen/pick_heat_then_place_in_recep-Egg-None-Fridge-14/trial_T20190909_091314_636733`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from envs.alfworld.native.names import player_names
from trajectories.errors import UserError

TASK_TYPES = (
    "pick_and_place_simple",
    "look_at_obj_in_light",
    "pick_clean_then_place_in_recep",
    "pick_heat_then_place_in_recep",
    "pick_cool_then_place_in_recep",
    "pick_two_obj_and_place",
)
"""The six task types that ALFWorld plays, in its own numbering (1 to 6)."""

OFFICIAL_SPLITS = ("train", "valid_seen", "valid_unseen")
TEST_SPLITS = ("valid_seen", "valid_unseen")
GENERATED_SPLITS = ("generated/train", "generated/heldout")
GAME_FILE = "game.tw-pddl"


@dataclass(frozen=True, slots=True)
class Game:
    """One ALFWorld game.

    Attributes:
        task_id: `split/game folder/trial folder`.
        domain, problem: PDDL texts.
        grammar: TextWorld's text grammar, with the task sentence filled in.
        walkthrough: commands that win it, in the player's words; None where the file records none.
        task_type: one of `TASK_TYPES`.
    """

    task_id: str
    domain: str
    problem: str
    grammar: str
    walkthrough: tuple[str, ...] | None
    task_type: str

    @property
    def content_hash(self) -> str:
        """SHA-256 of all that decides how the game plays."""
        return hashlib.sha256("\0".join((self.domain, self.problem, self.grammar)).encode()).hexdigest()


def split_of(task_id: str) -> str | None:
    """The split of a task id: all but its last two parts; None if it has fewer than three."""
    parts = task_id.split("/")
    return "/".join(parts[:-2]) if len(parts) >= 3 else None


def is_playable(task_id: str) -> bool:
    """ALFWorld's filter by name: one of the six task types, no movable receptacle and no sliced object."""
    folder = task_id.split("/")[-2]
    return folder.split("-")[0] in TASK_TYPES and "movable" not in task_id and "Sliced" not in task_id


def parse_game(task_id: str, content: str | bytes, source: str) -> Game | None:
    """Read the content of a `game.tw-pddl` file; None if the file says that the game is not solvable.

    Args:
        source: file name for error messages.

    Raises:
        UserError: not JSON, or parts of the game are missing.
    """
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{source} is no valid game file ({error}); delete it and fetch the games again") from error
    if not isinstance(data, dict):
        raise UserError(f"{source} is no valid game file (a JSON object was expected); fetch the games again")
    missing = [key for key in ("pddl_domain", "pddl_problem", "grammar") if not isinstance(data.get(key), str)]
    if missing:
        raise UserError(f"{source} lacks {', '.join(missing)}; fetch the games again (json_2.1.2_tw-pddl has them)")
    if not data.get("solvable", False):
        return None
    return Game(
        task_id=task_id,
        domain=data["pddl_domain"],
        problem=data["pddl_problem"],
        grammar=data["grammar"],
        walkthrough=player_walkthrough(data.get("walkthrough"), data["pddl_problem"]),
        task_type=task_id.split("/")[-2].split("-")[0],
    )


def player_walkthrough(walkthrough: Sequence[str] | None, problem: str) -> tuple[str, ...] | None:
    """A recorded walkthrough in the player's words.

    valid_seen records `take cd 1 from desk 1`; valid_unseen records raw ids (`take cd_bar_... from desk_bar_...`),
    which the game does not understand; older files say `put X in/on Y` where current grammars say `move X to Y`.
    """
    if not walkthrough:
        return None
    names = _names_by_id(problem) if any("_bar_" in command for command in walkthrough) else {}
    return tuple(_player_command(command, names) for command in walkthrough)


def _player_command(command: str, names: Mapping[str, str]) -> str:
    command = re.sub(r"^put (.+) in/on (.+)$", r"move \1 to \2", command)
    return " ".join(names.get(word.lower(), word) for word in command.split())


def _names_by_id(problem: str) -> dict[str, str]:
    """What the player calls each thing that the problem's initial state mentions."""
    return player_names(set(re.findall(r"\b\w+?_bar_\w+", problem.split("(:init", 1)[-1].lower())))
