"""The learner of a run in one process: `InlinePool` is a `LearnerPool` without workers of its own."""

from __future__ import annotations

import asyncio
from typing import Any

from actors import runtime
from learners.learner_settings import LearnerSettings
from learners.workers.process import multiply_with_onednn

WAITING = {"send"}
"""Methods that wait for the engine's process, which this process must meanwhile tell to take part."""


class InlinePool:
    """One learner worker in this process. Training blocks it, so that a breakpoint in a loss stops everything."""

    def __init__(self, config: LearnerSettings) -> None:
        self._config = config
        self._worker: Any = None

    def start(self, timeout_s: float) -> None:
        """Load the model. Raises UserError where it cannot be."""
        from learners.workers.worker import LearnerWorker  # here, because it takes seconds

        multiply_with_onednn()
        self._worker = LearnerWorker(self._config)

    async def call(self, method: str, *arguments: Any, timeout_s: float = 0.0) -> list[Any]:
        """See `LearnerPool.call`. Nothing is bounded: who stands at a breakpoint takes their time."""
        work, known = getattr(self._worker, method), [_resolved(argument) for argument in arguments]
        return [await asyncio.to_thread(work, *known) if method in WAITING else work(*known)]

    async def call_refs(self, method: str, *arguments: Any, timeout_s: float = 0.0) -> list[Any]:
        """See `LearnerPool.call_refs`."""
        return [runtime.put(result) for result in await self.call(method, *arguments)]

    def stop(self) -> None:
        """Let go of the model."""
        self._worker = None


def _resolved(argument: Any) -> Any:
    """As workers do it: references among the arguments, and in lists of them."""
    if isinstance(argument, list):
        return [_resolved(one) for one in argument]
    return runtime.value_of(argument)
