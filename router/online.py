"""Online routing: every finished group goes to GRPO, or its task's reference trajectory to SFT, by the weights of now.

The reference is the expert's demonstration of the task, else the group's own best success: the one with the fewest
turns. The two are compared each with its own kind. A group without either, or whose reference has no gradient to speak
of, cannot be compared: it is not routed and stays with GRPO. Policies that compare nothing (`arbitration.ALIKE`) decide
for such groups too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from collections.abc import Sequence as Many
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch

from router import tables
from router.arbitration import ALIKE, Arbiter, Decision, RunningQuantile
from router.probe import ProbeResult
from router.scores import Candidates
from trajectories.ids import demonstration_id
from trajectories.schema import assignments_from_table, assignments_to_table, sequences_from_table
from trajectories.types import Assignment, Route, StopReason

EXPERT, OWN = "expert", "own"
"""Kinds of reference trajectory. The policy finds its own likelier, so their gradients are others."""


@dataclass(frozen=True, slots=True)
class Group:
    """A finished group: its `episodes` and `sequences` tables, and `assignments` as all of it would go to GRPO."""

    episodes: pa.Table
    sequences: pa.Table
    assignments: pa.Table


@dataclass(slots=True)
class OnlineRouter:
    """A policy with its memory.

    Attributes:
        steps: batches routed so far.
    """

    arbiter: Arbiter
    steps: int = 0

    def state(self) -> dict[str, Any]:
        """What it remembers."""
        windows = self.arbiter.state() if isinstance(self.arbiter, RunningQuantile) else {}
        return {"steps": self.steps, "windows": windows}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave."""
        self.steps = state["steps"]
        if isinstance(self.arbiter, RunningQuantile):
            self.arbiter.restore(state["windows"])

    def decide(
        self, groups: Many[Group], references: Many[str | None], measured: pa.Table | None
    ) -> list[Decision | None]:
        """One decision per group, in order; None for those that cannot be routed.

        Args:
            references: episode id of each group's reference trajectory.
            measured: `tables.MEASURED` of these trajectories; None where the policy needs no probe.
        """
        sound, alike = _sound(measured), isinstance(self.arbiter, ALIKE)
        routed = [
            at for at, name in enumerate(references) if alike or (name is not None and (sound is None or name in sound))
        ]
        decisions: list[Decision | None] = [None] * len(groups)
        if routed:
            rows = [sound[references[at] or ""] for at in routed] if sound is not None else None
            chosen = [(groups[at], references[at]) for at in routed]
            known = measured.take(rows) if measured is not None and rows else None
            for at, decision in zip(routed, self.arbiter.decide(self._candidates(chosen, known)), strict=True):
                decisions[at] = decision
        self.steps += 1
        return decisions

    def _candidates(self, chosen: Many[tuple[Group, str | None]], measured: pa.Table | None) -> Candidates:
        episodes = [group.episodes for group, _ in chosen]
        own = [name in group.episodes["episode_id"].to_pylist() for group, name in chosen]
        known = tables.candidates(measured, [""] * len(chosen)) if measured is not None else None
        return Candidates(
            ids=tuple(table["group_id"][0].as_py() for table in episodes),
            environments=tuple(table["environment"][0].as_py() for table in episodes),
            kinds=tuple(OWN if by_itself else EXPERT for by_itself in own),
            step=self.steps,
            norms=known.norms if known else None,
            entries=known.entries if known else None,
            losses=known.losses if known else None,
            pass_rates=torch.tensor([_pass_rate(table) for table in episodes], dtype=torch.float64),
        )


def reference_id(episodes: pa.Table, demonstrated: Collection[str]) -> str | None:
    """Episode id of the reference trajectory of the group with these episodes; None when there is none.

    Args:
        demonstrated: episode ids of the demonstrations.
    """
    expert = demonstration_id(episodes["environment"][0].as_py(), episodes["task_id"][0].as_py())
    if expert in demonstrated:
        return expert
    rows = episodes.select(["episode_id", "success", "turns", "stop_reason"]).to_pylist()
    won = [row for row in rows if row["success"] and row["stop_reason"] != StopReason.ERROR]
    return min(won, key=lambda row: row["turns"])["episode_id"] if won else None


def sequences_of(table: pa.Table, episode_id: str | None) -> pa.Table:
    """The rows of a sequences table that belong to one episode; none for None."""
    return table.filter(pc.field("episode_id") == episode_id) if episode_id is not None else table.slice(0, 0)


def measure(result: ProbeResult, sequences: pa.Table) -> pa.Table:
    """`tables.MEASURED` of what the workers probed."""
    return tables.measured(result, list(sequences_from_table(sequences)))


def routed_assignments(group: Group, reference: pa.Table, decision: Decision, version: int = 0) -> pa.Table:
    """The group's assignments after the decision, and those of its reference, by sequence.

    Args:
        reference: sequences of the reference trajectory, none where there is none. The group's own keep one row for
            both objectives; an expert's are dropped unless they are imitated.
        version: version of the router's memory.
    """
    names = set(reference["sequence_id"].to_pylist())
    rows = list(assignments_from_table(group.assignments))
    nothing = dict.fromkeys(rows[0].reward_advantages if rows else (), 0.0)
    rows += [
        Assignment(name, Route.DROP, advantages=(), rl_weight=0.0, ce_weight=0.0, reward_advantages=nothing)
        for name in sorted(names - {row.sequence_id for row in rows})
    ]
    return assignments_to_table(_weighed(row, decision, row.sequence_id in names, version) for row in rows)


def one_each(assignments: pa.Table, sequences: pa.Table) -> pa.Table:
    """The assignments with one row a sequence, and `drop` for those of `sequences` that have none.

    Groups of one task share the expert's demonstration, and may decide differently: it is imitated once if any does.
    """
    chosen: dict[str, Assignment] = {}
    for row in assignments_from_table(assignments):
        if row.sequence_id not in chosen or row.ce_weight > chosen[row.sequence_id].ce_weight:
            chosen[row.sequence_id] = row
    nothing = dict.fromkeys(next((row.reward_advantages for row in chosen.values()), ()), 0.0)
    for name in sequences["sequence_id"].to_pylist():
        chosen.setdefault(name, Assignment(name, Route.DROP, (), 0.0, 0.0, nothing))
    return assignments_to_table(chosen.values())


def _weighed(row: Assignment, decision: Decision, imitated: bool, version: int) -> Assignment:
    rl_weight, ce_weight = row.rl_weight * decision.rl_weight, decision.ce_weight if imitated else 0.0
    return Assignment(
        sequence_id=row.sequence_id,
        route=Route.GRPO if rl_weight else Route.SFT if ce_weight else Route.DROP,
        advantages=row.advantages,
        rl_weight=rl_weight,
        ce_weight=ce_weight,
        reward_advantages=row.reward_advantages,
        score=decision.score,
        threshold=decision.threshold,
        router_version=version,
        reward_weights_version=row.reward_weights_version,
    )


def _sound(measured: pa.Table | None) -> dict[str, int] | None:
    """Row of each trajectory whose gradient has a geometry; None where nothing was measured."""
    if measured is None:
        return None
    norms = tables.candidates(measured, [""] * measured.num_rows).norms
    assert norms is not None
    good = (norms.isfinite().all(1) & (norms > 0).any(1)).tolist() if measured.num_rows else []
    return {name: row for row, name in enumerate(measured["trajectory"].to_pylist()) if good[row]}


def _pass_rate(episodes: pa.Table) -> float:
    rows = episodes.select(["success", "stop_reason"]).to_pylist()
    members = [row for row in rows if row["stop_reason"] != StopReason.ERROR]
    return sum(row["success"] for row in members) / max(len(members), 1)
