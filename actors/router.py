"""The router actor: it stamps a route and weights on every sequence of a learner step."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from learners.assign import grpo_assignments
from learners.config import GRPOConfig
from router import online
from router.arbitration import Decision
from router.online import Group, OnlineRouter
from router.probe import ProbeResult
from trajectories.schema import assignments_to_table, concat_tables
from trajectories.types import Assignment, Route

REWARD_WEIGHTS = {"success": 1.0}


class RouterActor:
    """Runs as a Ray actor of its own, so that token data goes from rollouts to learners past the coordinator.

    It remembers nothing: the state of an online policy comes with each call and goes back with the answer, so that a
    restarted actor, or a call that Ray repeats, routes the same.
    """

    def __init__(self, grpo: GRPOConfig) -> None:
        self._grpo = grpo

    def assign(self, demonstrated: Sequence[str], *tables: pa.Table) -> pa.Table:
        """The assignments of one learner step: groups to GRPO by advantage, demonstrations to SFT.

        Args:
            demonstrated: ids of the demonstrations' sequences.
            tables: episodes and sequences of each group, in turn.
        """
        parts = [group.assignments for group in self._groups(tables)]
        if demonstrated:
            parts.append(
                assignments_to_table(Assignment(name, Route.SFT, 0.0, 0.0, 1.0, {}) for name in set(demonstrated))
            )
        return concat_tables(parts)

    def references(self, demonstrations: pa.Table, *tables: pa.Table) -> tuple[pa.Table, pa.Table, int]:
        """The sequences of the groups' reference trajectories, for the probe.

        Args:
            demonstrations: sequences of the experts' episodes.
        Returns:
            Those of experts, those of successes of the groups themselves, and how many there are.
        """
        demonstrated = set(demonstrations["episode_id"].to_pylist())
        experts, own = [demonstrations.slice(0, 0)], [demonstrations.slice(0, 0)]
        for group in self._groups(tables):
            name = online.reference_id(group, demonstrated)
            if name in demonstrated:
                experts.append(online.sequences_of(demonstrations, name))
            elif name is not None:
                own.append(online.sequences_of(group.sequences, name))
        parts = pa.concat_tables(experts), pa.concat_tables(own)
        return *parts, sum(part.num_rows for part in parts)

    def route(
        self, router: OnlineRouter, probed: ProbeResult | None, experts: pa.Table, own: pa.Table, *tables: pa.Table
    ) -> tuple[pa.Table, OnlineRouter, dict[str, float]]:
        """The assignments of one learner step on groups and their references.

        Args:
            router: its state before.
            probed: of `experts` and `own`, in this order; None where the policy needs no probe.
        Returns:
            The assignments, the router's state after, and metrics.
        """
        groups = self._groups(tables)
        references = pa.concat_tables([experts, own])
        measured = online.measure(probed, references) if probed is not None else None
        demonstrated = set(experts["episode_id"].to_pylist())
        names = [online.reference_id(group, demonstrated) for group in groups]
        decisions = router.decide(groups, names, measured)
        parts = [
            online.routed_assignments(group, online.sequences_of(references, name), decision)
            if decision is not None and name is not None
            else group.assignments
            for group, name, decision in zip(groups, names, decisions, strict=True)
        ]
        return concat_tables(parts), router, _metrics(decisions)

    def _groups(self, tables: Sequence[pa.Table]) -> list[Group]:
        return [
            Group(episodes, sequences, grpo_assignments(episodes, sequences, self._grpo, REWARD_WEIGHTS))
            for episodes, sequences in zip(tables[::2], tables[1::2], strict=True)
        ]


def _metrics(decisions: Sequence[Decision | None]) -> dict[str, float]:
    made = [decision for decision in decisions if decision is not None]
    metrics = {
        "router/sft": float(sum(decision.route is Route.SFT for decision in made)),
        "router/grpo": float(sum(decision.route is Route.GRPO for decision in made)),
        "router/unrouted": float(len(decisions) - len(made)),
    }
    for name in ("score", "threshold"):
        values = [value for decision in made if (value := getattr(decision, name)) is not None]
        if values:
            metrics[f"router/{name}"] = sum(values) / len(values)
    return metrics
