"""Publication of weights, followed by the check that engine and learner agree on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from actors import runtime
from cluster.runtime.fleet import RolloutFleet
from cluster.runtime.learner import RayLearner
from learners.policy.parity import Parity, ParityWatch, Scores, check_unchanged
from trajectories.schema import sequences_from_table


@dataclass(frozen=True, slots=True)
class ParitySequences:
    """Fixed sequences on which log-probabilities are compared. Their tokens lie in the object store.

    Attributes:
        table: reference to the sequences table, for the learner.
        token_ids: reference to the list of their tokens, int32 [T] each, for the engines.
        trained: bool [T] of each: which of its tokens are compared.
    """

    table: Any
    token_ids: Any
    trained: tuple[npt.NDArray[np.bool_], ...]

    @classmethod
    def put(cls, table: pa.Table) -> ParitySequences:
        sequences = sequences_from_table(table)
        token_ids = [sequence.token_ids for sequence in sequences]
        return cls(runtime.put(table), runtime.put(token_ids), tuple(sequence.trained for sequence in sequences))


@dataclass(frozen=True, slots=True)
class Publisher:
    """Gives every engine the learner's weights and makes sure that they arrived.

    Version 0 is what the engines have loaded themselves, so publishing it must change nothing: a self-test of names and
    layers, at the start of every run.

    Attributes:
        watch: knows what differences are borne.
    """

    learner: RayLearner
    fleet: RolloutFleet
    sequences: ParitySequences
    watch: ParityWatch

    async def publish(self, version: int) -> dict[str, float]:
        """Publish the present weights as `version`; the metrics of the parity check. Raises RunError."""
        loaded = [await self._by_engines() for _ in range(2)] if version == 0 else []
        await self.fleet.publish(await self.learner.export(version), version)
        by_engine = await self._by_engines()
        if loaded:
            first, again = loaded
            check_unchanged(self._worst(by_engine, first[0]).largest, self._worst(again, first[0]).largest)
        return self.watch.check(self._worst(by_engine, await self.learner.score(self.sequences.table)), version)

    async def _by_engines(self) -> list[Scores]:
        return await self.fleet.score(self.sequences.token_ids, temperature=1.0)

    def _worst(self, by_engine: list[Scores], expected: Scores) -> Parity:
        """That of the engine that is furthest off."""
        found = [Parity.of(scores, expected, self.sequences.trained) for scores in by_engine]
        return max(found, key=lambda parity: (parity.p99, parity.largest))
