"""The two things that experience needs of the outside: a chat model and an embedder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trajectories.errors import RunError

Message = Mapping[str, str]
"""`role` and `content`, as chat endpoints take them."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What a chat model wrote, and what that cost.

    Attributes:
        text: the reply; JSON that fits the schema, unless the limit cut it off or the model cannot be constrained.
        prompt_tokens: tokens that were read.
        completion_tokens: tokens that were written.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int


class RefusedRequest(Exception):
    """The chat model will not take this request, however often it is made: it is too long, say. The message tells why.

    `experience.asking` gives up the step at once. What ends a run instead (nobody answers, no such model) is a
    `ConcertoError`.
    """


class EndpointDown(RunError):
    """The endpoint does not answer, or not as a chat endpoint does."""

    fix = "what was asked is kept, the same command goes on"


class ChatModel(Protocol):
    """Completes a conversation under a JSON schema."""

    async def complete(
        self, messages: Sequence[Message], schema: Mapping[str, Any], max_tokens: int, temperature: float
    ) -> Completion:
        """One completion. Raises RefusedRequest, or a ConcertoError where the model cannot be reached."""
        ...


class Embedder(Protocol):
    """Turns texts into vectors whose dot product says how near their meanings are."""

    @property
    def name(self) -> str:
        """Names model and version; a memory remembers it, since vectors of two models do not compare."""
        ...

    @property
    def dimension(self) -> int:
        """Numbers in a vector, d."""
        ...

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32 [n, d] for n texts, each row of length 1."""
        ...
