"""A text game as others write one: it has Gymnasium's interface and knows nothing of Concerto."""

from __future__ import annotations

import random
from functools import partial
from typing import Any

import gymnasium
import numpy as np

from envs.adapters.gymnasium import GymnasiumTasks
from examples.own_environment import Shelf

__all__ = [
    "Choosy",
    "Dice",
    "Listing",
    "NeedsArguments",
    "Numbering",
    "Old",
    "Shelf",
    "Showing",
    "Silent",
    "Stingy",
    "Telling",
    "WordGame",
    "five",
]


class WordGame(gymnasium.Env[str, str]):
    """Say the word backwards. A wrong answer costs 0.1; the second ends the episode without success."""

    def __init__(self, length: int = 3) -> None:
        self._length = length

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self._word = "".join(random.Random(seed).choices("abcdef", k=self._length))
        self._wrong = 0
        return f"Say {self._word} backwards.", {"admissible_actions": ["give up"]}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if action == self._word[::-1]:
            return "Right.", 1.0, True, False, {}
        self._wrong += 1
        info = {"action_valid": action.isalpha(), "admissible_actions": ["give up"]}
        return f"No. Say {self._word} backwards.", -0.1, False, self._wrong == 2, info


class Telling(WordGame):
    """Its `info` tells what a plain environment leaves to guess."""

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        text, _, done, cut, _ = super().step(action)
        return text, 0.0, done, cut, {"success": done, "state_hash": 7}


class Showing(WordGame):
    """Shows a number."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        return 5, {}


class Old(WordGame):
    """Answers as before Gymnasium 0.26."""

    def step(self, action: str) -> Any:
        return "Hm.", 0.0, True, {}


class Silent(WordGame):
    """Tells nothing beside what it shows."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return super().reset(seed=seed)[0], None


class Listing(WordGame):
    """Has one admissible action, and gives it as it is."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return super().reset(seed=seed)[0], {"admissible_actions": "give up"}


class Numbering(WordGame):
    """Names its actions by numbers."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return super().reset(seed=seed)[0], {"admissible_actions": range(3)}


class Stingy(WordGame):
    """Gives no reward."""

    def step(self, action: str) -> Any:
        return "Hm.", None, True, False, {}


class Choosy(WordGame):
    """Has no list of actions, and says so."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return super().reset(seed=seed)[0], {"admissible_actions": None}


class NeedsArguments(WordGame):
    def __init__(self, length: int) -> None:
        super().__init__(length)


five = GymnasiumTasks(partial(NeedsArguments, 5), {"train": range(8), "dev": (8, 9)}, solved_at=0.9)


class Dice:
    """Takes a seed, and draws from the generators of the process all the same."""

    def reset(self, *, seed: int | None = None) -> tuple[str, dict[str, Any]]:
        self._secret = random.random()
        return "Roll.", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        return f"{self._secret} {random.random()} {np.random.random()}", 0.0, False, False, {}
