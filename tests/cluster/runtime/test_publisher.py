from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cluster.runtime.publisher import ParitySequences, Publisher
from learners.policy.parity import ParityWatch, Scores
from trajectories.errors import RunError

SEQUENCES = ParitySequences(None, None, (np.array([False, True, True]),))


class Stub:
    """A learner and a fleet of two engines; a publication moves what the engines score by `shift` nats."""

    def __init__(self, shift: float) -> None:
        self.shift, self.calls, self.moved = shift, [], 0.0

    async def export(self, version: int) -> int:
        return version

    async def publish(self, weights: Any, version: int) -> None:
        self.calls.append(version)
        self.moved += self.shift

    async def score(self, sequences: Any, temperature: float | None = None) -> Any:
        if temperature is None:
            return self._scores(0.0)
        self.calls.append("score")
        return [self._scores(0.0), self._scores(self.moved)]

    def _scores(self, moved: float) -> Scores:
        return [np.array([0.0, -1.0, -2.0 + moved], np.float32)]


def publisher(stub: Stub, tolerance: float = 0.05) -> Publisher:
    watch = ParityWatch(tolerance, "float32", pytest.fail)
    return Publisher(stub, stub, SEQUENCES, watch)  # pyright: ignore[reportArgumentType]


async def test_the_first_publication_is_compared_with_what_the_engines_had_loaded() -> None:
    stub = Stub(0.0)
    assert (await publisher(stub).publish(0))["parity_error"] == 0.0
    assert stub.calls == ["score", "score", 0, "score"]


async def test_unchanged_weights_that_change_something_stop_the_run_below_the_tolerance_too() -> None:
    with pytest.raises(RunError, match=r"publishing unchanged weights moved the engine's .* by 3\.70e-02 nats"):
        await publisher(Stub(0.037)).publish(0)


async def test_later_publications_are_compared_with_the_learner_alone() -> None:
    stub = Stub(0.037)
    assert (await publisher(stub).publish(3))["parity_error"] == pytest.approx(0.037, abs=1e-6)
    assert stub.calls == [3, "score"]
    with pytest.raises(RunError, match="after publishing version 4"):
        await publisher(stub).publish(4)
