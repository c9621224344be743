"""The run's own policy as the chat model that makes experience (`experience.base_url=policy`)."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

from ray.exceptions import RayActorError

from actors import runtime
from actors.engine import EngineError
from experience.protocols import Completion, EndpointDown, Message, RefusedRequest
from trajectories.errors import last_line

logger = logging.getLogger(__name__)

ATTEMPTS = 4
"""Times that a request is made before the engines count as down."""
WAIT_S = 15.0
"""Seconds before the next attempt: an engine that died is back after some of them."""


@dataclass(frozen=True, slots=True)
class ServedPolicy:
    """The policy as others see it: folder or name of its model, and the names of the rollout actors that serve it."""

    model: str
    engines: tuple[str, ...]


class PolicyChat:
    """`experience.protocols.ChatModel` on the engines of a run, in turns, with whatever weights they hold."""

    def __init__(self, engines: Sequence[str]) -> None:
        self._engines = cycle(engines)

    async def complete(
        self, messages: Sequence[Message], schema: Mapping[str, Any], max_tokens: int, temperature: float
    ) -> Completion:
        """See `experience.protocols.ChatModel.complete`.

        Raises:
            RefusedRequest: the engine takes requests, but not this one.
            EndpointDown: no engine answered.
        """
        reason = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(WAIT_S)
            name = next(self._engines)
            try:
                actor: Any = runtime.find(name)
                return await actor.complete.remote(list(messages), json.dumps(schema), max_tokens, temperature)
            except RefusedRequest as error:
                raise RefusedRequest(last_line(error)) from None
            except (RayActorError, EngineError, ValueError) as error:  # ValueError: no actor of that name
                reason = f"{name}: {last_line(error)}"
            logger.warning("attempt %d of %d to ask the policy failed: %s", attempt + 1, ATTEMPTS, reason)
        raise EndpointDown(f"the policy was asked {ATTEMPTS} times, the last time {reason}")
