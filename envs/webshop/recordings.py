"""Recorded WebShop episodes: conversations of an expert with the shop (AgentGym's AgentTraj), one JSON object a line.

    {"item_id": "webshop_6148", "conversations": [{"from": "human"|"gpt", "value": ...}, ...]}

The number in `item_id` is the goal's canonical index among the 1,000 products' goals.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envs.recordings import Recording, read_records
from envs.webshop.catalogue import open_catalogue
from envs.webshop.goals import TRAIN_START
from trajectories.errors import UserError

OPENING_TURNS = 2
"""The rules, and the model's consent to them, come before the first observation."""
_ITEM = re.compile(r"webshop_(\d+)")
_ACTION_LINE = re.compile(r"Action:\s*(.+)")
_INSTRUCTION = re.compile(r"Instruction: \[SEP\] (.*?)(?:, and price lower than \d+\.\d\d dollars)? \[SEP\]")


@dataclass(frozen=True, slots=True)
class RecordedTurn:
    """What the expert saw, all that it said, and what that says it thought and did."""

    observation: str
    response: str
    thought: str
    action: str


@dataclass(frozen=True, slots=True)
class RecordedEpisode:
    """One recorded episode."""

    task_id: str
    turns: tuple[RecordedTurn, ...]


def read_recordings(path: Path, data: str | Path | None = None) -> Iterator[Recording]:
    """Every episode, for `envs.recordings.import_recordings`. Raises UserError as `read_episodes`.

    A goal is recognised by its instruction without the price cap: the recorded processes had drawn other caps.
    """
    goals = open_catalogue(data).goal_count("synthetic")
    for episode in read_episodes(path):
        index = int(episode.task_id)
        instruction = _INSTRUCTION.search(episode.turns[0].observation) if episode.turns else None
        yield Recording(
            training=(episode.task_id,) if TRAIN_START <= index < goals else (),
            evaluated=(episode.task_id,) if index < min(TRAIN_START, goals) else (),
            opening=instruction[1] if instruction else "",
            actions=tuple(turn.action for turn in episode.turns),
            thoughts=tuple(turn.thought for turn in episode.turns),
        )


def read_episodes(path: Path) -> Iterator[RecordedEpisode]:
    """Every episode as it was recorded. Raises UserError naming file and line."""
    for place, record in read_records(path):
        try:
            yield _episode(record)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{place} is no recorded WebShop episode ({error}); it needs item_id, conversations") from (
                error
            )


def _episode(record: Any) -> RecordedEpisode:
    item = _ITEM.fullmatch(record["item_id"])
    if item is None:
        raise ValueError(f"item_id {record['item_id']!r} is not webshop_NUMBER")
    said = [turn["value"] for turn in record["conversations"][OPENING_TURNS:]]
    turns = tuple(
        RecordedTurn(observation, response, *_thought_and_action(response))
        for observation, response in zip(said[::2], said[1::2], strict=True)
    )
    return RecordedEpisode(str(int(item[1])), turns)


def _thought_and_action(response: str) -> tuple[str, str]:
    *_, action = [None, *_ACTION_LINE.finditer(response)]
    if action is None:
        raise ValueError("a response has no line with an action")
    thought = response[: action.start()].strip().removeprefix("Thought:")
    return " ".join(thought.split()), action[1].strip()
