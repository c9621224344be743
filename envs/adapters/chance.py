"""Chance that belongs to one episode, for environments from outside that draw from the generators of the process."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np


class Chance:
    """States of `random` and `numpy.random` in an episode. Inside of its blocks they go on from where its last block
    left them, whatever was drawn in between; outside, nothing of them shows.

    Many text games are handed a seed and draw their secret from `random` all the same.
    """

    def __init__(self) -> None:
        self._states: tuple[Any, Any] | None = None

    @contextmanager
    def begin(self, seed: int) -> Iterator[None]:
        """A block in which the chance of this seed begins."""
        outside = _states()
        random.seed(seed)
        np.random.seed(seed % 2**32)
        self._states = _states()
        _take(outside)
        with self.go_on():
            yield

    @contextmanager
    def go_on(self) -> Iterator[None]:
        """A later block. `begin` comes first."""
        outside = _states()
        assert self._states is not None
        _take(self._states)
        try:
            yield
        finally:
            self._states = _states()
            _take(outside)


def _states() -> tuple[Any, Any]:
    return random.getstate(), np.random.get_state()


def _take(states: tuple[Any, Any]) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])
