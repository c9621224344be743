"""The router actor: it stamps a route and weights on every sequence of a learner step."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from learners.assign import grpo_assignments
from learners.config import GRPOConfig
from trajectories.schema import assignments_to_table, concat_tables
from trajectories.types import Assignment, Route

REWARD_WEIGHTS = {"success": 1.0}


class RouterActor:
    """Runs as a Ray actor of its own, so that token data goes from rollouts to learners past the coordinator."""

    def __init__(self, grpo: GRPOConfig) -> None:
        self._grpo = grpo

    def assign(self, demonstrated: Sequence[str], *tables: pa.Table) -> pa.Table:
        """The assignments of one learner step: groups to GRPO by advantage, demonstrations to SFT.

        Args:
            demonstrated: ids of the demonstrations' sequences.
            tables: episodes and sequences of each group, in turn.
        """
        parts = [
            grpo_assignments(episodes, sequences, self._grpo, REWARD_WEIGHTS)
            for episodes, sequences in zip(tables[::2], tables[1::2], strict=True)
        ]
        if demonstrated:
            parts.append(
                assignments_to_table(Assignment(name, Route.SFT, 0.0, 0.0, 1.0, {}) for name in set(demonstrated))
            )
        return concat_tables(parts)
