"""Slips: actions that the environment does not accept, as a player makes them that misremembers or misreads.

A player that never errs never shows how play goes on after an error. Slips are put into demonstrations and into what
the embedded model reads; they are never trained on, only what follows them is.
"""

from __future__ import annotations

import random
import re

from envs.base import Observation

TRIES = 50
LONGEST_RUN = 4
"""Slips in a row: a model that slipped once often slips again before it recovers."""
_WORDS = re.compile(r"\w+")


class Slips:
    """Decides when a player slips, and how, from the admissible actions of one episode.

    Half of the slips are actions that were admissible before and are not now (the thing is elsewhere, the door is open
    already); the others are near misses: one word, number or letter of a known action is another's.

    Args:
        rate: chance of a slip before a turn that follows no slip, 0 to 1.
        again: chance of another one after a slip; at most `LONGEST_RUN` in a row.
    """

    def __init__(self, rng: random.Random, rate: float, again: float = 0.4) -> None:
        self._rng, self._rate, self._again = rng, rate, again
        self._known: dict[str, None] = {}
        self._run = 0

    def draw(self, observation: Observation) -> str | None:
        """A slip for this turn, or None where the player plays on. Asked once a turn, with what the player sees."""
        self._known.update(dict.fromkeys(observation.admissible_actions))
        chance = self._again if self._run else self._rate
        slips = 0 < self._run < LONGEST_RUN or not self._run
        action = self._slip(observation) if slips and self._rng.random() < chance else None
        self._run = self._run + 1 if action else 0
        return action

    def _slip(self, observation: Observation) -> str | None:
        admissible = set(observation.admissible_actions)
        gone = [action for action in self._known if action not in admissible]
        if gone and self._rng.random() < 0.5:
            return self._rng.choice(gone)
        known = list(self._known)
        for _ in range(TRIES if known else 0):
            action = self._near_miss(known)
            if action not in admissible and not action.startswith("search["):  # a shop searches for anything
                return action
        return None

    def _near_miss(self, known: list[str]) -> str:
        action, other = self._rng.choice(known), self._rng.choice(known)
        place = self._rng.choice(list(_WORDS.finditer(action)) or [None])
        if place is None:
            return action
        return action[: place.start()] + self._misread(place.group(), other) + action[place.end() :]

    def _misread(self, word: str, other: str) -> str:
        """Another word for this one: a number for a number, a code with one character changed, else one of `other`."""
        if word.isdigit():
            return str(self._rng.randint(1, 12))
        if any(character.isdigit() for character in word):
            place = self._rng.randrange(len(word))
            changed = self._rng.choice("0123456789" if word[place].isdigit() else "abcdefghijklmnopqrstuvwxyz")
            return word[:place] + changed + word[place + 1 :]
        words = [found for found in _WORDS.findall(other) if not found.isdigit()]
        return self._rng.choice(words or [word])
