"""Reference texts: what practice makes its questions from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from experience.protocols import Embedder
from experience.records import Reference


class References(Protocol):
    """Finds texts about what a question is about."""

    def nearest(self, text: str, count: int) -> Sequence[Reference]:
        """At most `count`, nearest first."""
        ...


class TextReferences:
    """Texts in memory, found by their vectors; more can be added."""

    def __init__(self, embedder: Embedder, texts: Iterable[Reference] = ()) -> None:
        self._embedder = embedder
        self._references: list[Reference] = []
        self._vectors: NDArray[np.float32] = np.zeros((0, embedder.dimension), np.float32)
        self.add(texts)

    def add(self, references: Iterable[Reference]) -> None:
        added = list(references)
        if added:
            vectors = self._embedder.embed([reference.text for reference in added])
            self._vectors = np.concatenate([self._vectors, vectors])
            self._references += added

    def nearest(self, text: str, count: int) -> list[Reference]:
        if not self._references:
            return []
        (vector,) = self._embedder.embed([text])
        order = np.argsort(-(self._vectors @ vector), kind="stable")[:count]
        return [self._references[index] for index in order]
