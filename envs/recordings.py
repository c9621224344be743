"""Recorded demonstrations of others: their actions are played again in our environments, and what wins may be imitated.

    imported = import_recordings("webshop", "agenttraj.jsonl", data="path/to/webshop")
    imported.won                        # [Won(task id, demonstration, thoughts), ...]
    imported.refused                    # why the others were left out, and how many

What the recording says was seen serves to recognise its task, no more. Thoughts are kept beside their actions.
"""

from __future__ import annotations

import json
import lzma
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Any

from envs import make_environment
from envs.base import Environment
from envs.experts import Demonstration
from envs.settings import EnvironmentSettings
from trajectories.errors import UserError
from trajectories.files import in_words

READERS = {"alfworld": "envs.alfworld.recordings", "webshop": "envs.webshop.recordings"}
"""Modules with a function `read_recordings(path, data)` that yields a `Recording` for each episode of a file."""


@dataclass(frozen=True, slots=True)
class Recording:
    """One recorded episode.

    Attributes:
        training: tasks that it may have been played on; empty where the data have none that fits.
        evaluated: such tasks in a test or dev split.
        opening: part of what the first observation of the right task says; empty where the recording names its task.
        actions: in order, in today's words.
        thoughts: what was thought before each action; empty where nothing was.
    """

    training: tuple[str, ...]
    evaluated: tuple[str, ...]
    opening: str
    actions: tuple[str, ...]
    thoughts: tuple[str, ...]


class Refusal(StrEnum):
    """Why a recording is left out."""

    UNKNOWN = "of tasks that these data do not have"
    EVALUATED = "of tasks in a test or dev split"
    LOST = "that do not win here"
    REPEATED = "of tasks that an earlier one solves"


@dataclass(frozen=True, slots=True)
class Won:
    """A task, how it was solved, and what was thought before each turn, if anything."""

    task_id: str
    demonstration: Demonstration
    thoughts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Imported:
    """What may be trained on, in the order of the file, and how many were left out, by reason."""

    won: tuple[Won, ...]
    refused: Counter[Refusal]


def import_recordings(
    environment: str,
    path: str | Path,
    data: str | Path | None = None,
    settings: EnvironmentSettings | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Imported:
    """Play every recording of a file again.

    Raises:
        UserError: no reader for this environment, an unknown format, a damaged file, or missing data.
    """
    if environment not in READERS:
        raise UserError(f"no recordings of {environment!r} can be imported; only those of {', '.join(READERS)}")
    player = make_environment(environment, data, settings)
    won: dict[str, Won] = {}
    refused: Counter[Refusal] = Counter()
    for number, recording in enumerate(import_module(READERS[environment]).read_recordings(Path(path), data), start=1):
        result = replay(player, recording)
        if isinstance(result, Refusal):
            refused[result] += 1
        elif result.task_id in won:
            refused[Refusal.REPEATED] += 1
        else:
            won[result.task_id] = result
        progress(number)
    player.close()
    return Imported(tuple(won.values()), refused)


def replay(player: Environment, recording: Recording) -> Won | Refusal:
    """The task that the actions solve and how, or why they are refused. Actions that do nothing are left out, and what
    was thought before them."""
    if any(_opens(player, task, recording.opening) for task in recording.evaluated):
        return Refusal.EVALUATED
    tasks = [task for task in recording.training if _opens(player, task, recording.opening)]
    for task in tasks:
        won = _play(player, task, recording)
        if won.demonstration and won.demonstration[-1][2].rewards["success"] == 1.0:
            return won
    return Refusal.LOST if tasks else Refusal.UNKNOWN


def read_records(path: Path) -> Iterator[tuple[str, Any]]:
    """(place, record) of `.jsonl`, a record a line, or `.json`, a list or an object by name; `.xz` is unpacked.

    Raises:
        UserError: no such file, or it is damaged.
    """
    try:
        content = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
        text = content.decode("utf-8-sig")
    except (OSError, EOFError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise UserError(
            f"no recorded demonstrations at {path} ({in_words(error)}); name a .json or .jsonl file"
        ) from error
    if ".jsonl" in path.suffixes:
        for number, line in enumerate(text.split("\n"), start=1):  # splitlines breaks within texts too, at U+2028
            if line.strip():
                yield f"{path} line {number}", _parse(line, f"{path} line {number}")
        return
    document = _parse(text, str(path))
    if not isinstance(document, dict | list):
        raise UserError(f"{path} holds one {type(document).__name__}: give a list of records, or an object by name")
    named = document.items() if isinstance(document, dict) else enumerate(document, start=1)
    for name, record in named:
        yield f"{path} record {name}", record


def _parse(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place} is no JSON ({error}); fetch the file again") from error


def _opens(player: Environment, task: str, opening: str) -> bool:
    return " ".join(opening.split()) in " ".join(player.reset(task).text.split())


def _play(player: Environment, task: str, recording: Recording) -> Won:
    observation = player.reset(task)
    steps: Demonstration = []
    thoughts: list[str] = []
    for action, thought in zip(recording.actions, recording.thoughts, strict=True):
        result = player.step(action)
        if result.info["action_valid"]:
            steps.append((observation, action, result))
            thoughts.append(thought)
            observation = result.observation
        if result.done:
            break
    return Won(task, steps, tuple(thoughts))
