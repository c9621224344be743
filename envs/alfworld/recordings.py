"""Recorded ALFWorld episodes in the formats in which others publish them.

| format | a record | its game |
|---|---|---|
| planner transcripts | `{"game": "split/folder/trial", "steps": [{"action": ...}, ...]}` | named |
| KnowAgent, filtered | `{"name": "folder/trial", "traj": "...\\n> action\\n..."}` | named, without its split |
| KnowAgent, training set | `{"input": "...", "output": "> action\\n..."}` | known by its opening |
| ReAct and Act prompts | a text: opening, `> action`, what was seen | known by its opening |
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from envs.alfworld.games import GENERATED_SPLITS, player_walkthrough, split_of
from envs.alfworld.library import GameLibrary
from envs.recordings import Recording, read_records
from trajectories.errors import UserError

TRAINING_SPLITS = ("train", "generated/train")
_TYPED = re.compile(r"^> *(?! |actionpath:)(?:think:(?P<thought>.*)|(?P<action>.+))$", re.IGNORECASE | re.MULTILINE)
_OPENING = re.compile(r"You are in the middle of a room\..*?Your task is to: [^\n]*", re.DOTALL)
_SENTENCE = re.compile(r"Your task is to: ([^\n\"\\]*)")


def read_recordings(path: Path, data: str | Path | None = None) -> Iterator[Recording]:
    """Every episode of a file. Raises UserError naming the place of a record that is none."""
    games = _Games(GameLibrary.open(data))
    for place, record in read_records(path):
        try:
            yield _recording(record, games)
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise UserError(
                f"{place} is no recorded ALFWorld episode ({type(error).__name__}: {error}); known are planner "
                "transcripts (game, steps), KnowAgent (name, traj or input, output) and ReAct prompts"
            ) from error


class _Games:
    """The games of a library, by name and by task sentence."""

    def __init__(self, library: GameLibrary) -> None:
        self._library = library

    def named(self, name: str) -> tuple[str, ...]:
        """The game `split/folder/trial`, or those called `folder/trial` in any split."""
        return tuple(task for task in self._tasks if task == name or task.endswith(f"/{name}"))

    def with_sentence(self, sentence: str) -> tuple[str, ...]:
        return self._by_sentence.get(sentence, ())

    @cached_property
    def _tasks(self) -> tuple[str, ...]:
        splits = (split for split in self._library.splits() if split not in GENERATED_SPLITS)
        return tuple(task for split in splits for task in self._library.task_ids(split))

    @cached_property
    def _by_sentence(self) -> dict[str, tuple[str, ...]]:
        by_sentence: dict[str, tuple[str, ...]] = {}
        for task in self._tasks:
            found = _SENTENCE.search(self._library.read(task).grammar)
            if found:
                sentence = found[1].strip()
                by_sentence[sentence] = (*by_sentence.get(sentence, ()), task)
        return by_sentence


def _recording(record: Any, games: _Games) -> Recording:
    if isinstance(record, Mapping) and "game" in record:
        return _of(games.named(record["game"]), "", [("", step["action"]) for step in record["steps"]])
    if isinstance(record, Mapping) and "name" in record:
        return _of(games.named(record["name"]), "", _typed(record["traj"]))
    if isinstance(record, Mapping):
        opening, actions = _OPENING.findall(record["input"])[-1], _typed(record["output"])
    else:
        opening, actions = _OPENING.findall(record)[0], _typed(record)
    return _of(games.with_sentence(opening.rpartition("Your task is to: ")[2].strip()), opening, actions)


def _typed(text: str) -> list[tuple[str, str]]:
    """Every action of a transcript, and all thoughts since the one before it."""
    turns: list[tuple[str, str]] = []
    thoughts: list[str] = []
    for line in _TYPED.finditer(text):
        if line["action"] is None:
            thoughts.append(line["thought"].strip())
        else:
            turns.append((" ".join(thoughts), line["action"].strip()))
            thoughts = []
    return turns


def _of(tasks: tuple[str, ...], opening: str, turns: list[tuple[str, str]]) -> Recording:
    return Recording(
        training=tuple(task for task in tasks if split_of(task) in TRAINING_SPLITS),
        evaluated=tuple(task for task in tasks if split_of(task) not in TRAINING_SPLITS),
        opening=opening,
        actions=player_walkthrough([action for _, action in turns], "") or (),
        thoughts=tuple(thought for thought, _ in turns),
    )
