"""Publication of weights, followed by the check that engine and learner agree on them."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from cluster.runtime.fleet import RolloutFleet
from cluster.runtime.learner import RayLearner
from learners.policy.parity import check_parity, parity_error
from trajectories.schema import sequences_from_table


@dataclass(frozen=True, slots=True)
class Publisher:
    """Gives every engine the learner's weights and makes sure that they arrived.

    Attributes:
        sequences: fixed sequences table on which log-probabilities are compared.
        tolerance: greatest difference in nats.
    """

    learner: RayLearner
    fleet: RolloutFleet
    sequences: pa.Table
    tolerance: float

    async def publish(self, version: int) -> float:
        """Publish the present weights as `version`; the greatest difference in nats. Raises RunError."""
        await self.fleet.publish(await self.learner.export(version), version)
        sequences = sequences_from_table(self.sequences)
        by_engine = await self.fleet.score([sequence.token_ids for sequence in sequences], temperature=1.0)
        by_learner = await self.learner.score(self.sequences)
        trained = [sequence.trained for sequence in sequences]
        error = max(parity_error(scores, by_learner, trained) for scores in by_engine)
        check_parity(error, self.tolerance, version)
        return error
