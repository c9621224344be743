"""The router actor, between rollouts and learners. It makes the advantages of plain GRPO too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pyarrow as pa
import ray
import torch

from actors.group_references import GroupTables, StepGroups
from learners.learner_settings import GRPOSettings
from learners.objectives.assign import duplicate_share, pending_assignments, scalarised_assignments
from learners.rewards.channels import Reading
from learners.rewards.open_channels import KL, OpenChannels
from learners.rewards.reward_batch import RewardBatch, reward_batch
from learners.rewards.reward_settings import RewardSettings
from learners.rewards.scalarisers import ADVANTAGES, channel_metrics, pure_scalariser, reward_weight_metrics
from router import online
from router.arbitration import Decision
from router.online import Group, OnlineRouter
from router.probe import ProbeResult
from router.scores import score_percentiles
from trajectories.schema import assignments_to_table, concat_tables
from trajectories.types import Assignment, Route


class RouterActor:
    """In every mode: rewards and geometry in, a route for every sequence and an advantage for every turn out.

    Runs as a Ray actor of its own, so that token data goes from rollouts to learners past the coordinator.
    It remembers nothing: the state of an online policy comes with each call and goes back with the answer, so that a
    restarted actor, or a call that Ray repeats, routes the same.
    """

    def __init__(
        self,
        grpo: GRPOSettings,
        reward: RewardSettings,
        channels: Sequence[str],
        seed: int,
        open_channels: Callable[[], OpenChannels] | None = None,
    ) -> None:
        """
        Args:
            channels: reward channels, which all episodes must have.
            seed: seed of random reward weights.
            open_channels: makes those of the channels that no environment gives; called here, since they may hold a
                model.
        """
        self._open = open_channels() if open_channels is not None else None
        self._grpo, self._outcome, self._channels = grpo, reward.outcome, tuple(channels)
        learned = reward.scalariser == "conductor"
        self._scalarise = None if learned else pure_scalariser(reward, seed, ADVANTAGES[grpo.advantage])

    def to_read(self, groups: StepGroups) -> pa.Table:
        """The sequences that the policy must read before `assign` or `route`, for channels that depend on its view."""
        assert self._open is not None
        return self._open.to_read(*_joined(groups.fetch()))

    @ray.method(num_returns=3)
    def assign(
        self, demonstrated: Sequence[str], reading: Reading | None, groups: StepGroups
    ) -> tuple[pa.Table, RewardBatch | None, dict[str, float]]:
        """One learner step: groups to GRPO by advantage, demonstrations to SFT.

        Args:
            demonstrated: ids of the demonstrations' sequences.
            reading: the policy's reading of what `to_read` gave; None where no channel needs it.
        Returns:
            The assignments, the rewards of all groups (None without groups), and metrics.
        Raises:
            UserError: an episode lacks a reward channel, or has a value that is no number.
        """
        sft = assignments_to_table(
            Assignment(name, Route.SFT, (), 0.0, 1.0, {}) for name in dict.fromkeys(demonstrated)
        )
        tables = groups.fetch()
        if not tables:
            return sft, None, {}
        played, batch, metrics = self._compared(tables, reading)
        return concat_tables([*(group.assignments for group in played), sft]), batch, metrics

    @ray.method(num_returns=3)
    def references(self, demonstrations: pa.Table, groups: StepGroups) -> tuple[pa.Table, pa.Table, int]:
        """The sequences of the groups' reference trajectories, for the probe.

        Args:
            demonstrations: sequences of the experts' episodes.
        Returns:
            Those of experts, those of successes of the groups themselves, and how many there are.
        """
        demonstrated = set(demonstrations["episode_id"].to_pylist())
        experts, own = {"": demonstrations.slice(0, 0)}, [demonstrations.slice(0, 0)]
        for episodes, sequences in groups.fetch():
            name = online.reference_id(episodes, demonstrated)
            if name is not None and name in demonstrated:
                experts[name] = online.sequences_of(demonstrations, name)  # groups of one task share it
            else:
                own.append(online.sequences_of(sequences, name))
        parts = pa.concat_tables(experts.values()), pa.concat_tables(own)
        return *parts, sum(part.num_rows for part in parts)

    @ray.method(num_returns=4)
    def route(
        self,
        router: OnlineRouter,
        probed: ProbeResult | None,
        experts: pa.Table,
        own: pa.Table,
        reading: Reading | None,
        groups: StepGroups,
    ) -> tuple[pa.Table, RewardBatch, dict[str, float], OnlineRouter]:
        """One learner step on groups and their references.

        Args:
            router: its state before.
            probed: result of the probe on `experts` and `own`, in this order; None where the policy needs no probe.
            reading: as in `assign`.
        Returns:
            The assignments, one for every sequence of the groups and of `experts`, the rewards of the groups that are
            explored, metrics, and the router's state after.
        Raises:
            UserError: as `assign`.
        """
        played, batch, metrics = self._compared(groups.fetch(), reading)
        references = pa.concat_tables([experts, own])
        measured = online.measure(probed, references) if probed is not None else None
        demonstrated = set(experts["episode_id"].to_pylist())
        names = [online.reference_id(group.episodes, demonstrated) for group in played]
        decisions = router.decide(played, names, measured)
        parts = [
            online.routed_assignments(group, online.sequences_of(references, name), decision, router.steps)
            if decision is not None
            else group.assignments
            for group, name, decision in zip(played, names, decisions, strict=True)
        ]
        assignments = online.one_each(concat_tables(parts), experts)
        return assignments, _explored(batch, played, decisions), metrics | _metrics(decisions), router

    def _compared(
        self, tables: Sequence[GroupTables], reading: Reading | None
    ) -> tuple[list[Group], RewardBatch, dict[str, float]]:
        """Each group as all of it would go to GRPO. Advantages that the Conductor gives are still 0."""
        episodes, sequences = _joined(tables)
        more: dict[str, Sequence[float]] = {}
        metrics: dict[str, float] = {}
        if self._open is not None:
            rated, metrics = self._open.rated(episodes, sequences)
            more = {**self._open.values(episodes, sequences, reading), **rated}
        moved = more.pop(KL, None)
        batch = reward_batch(episodes, self._outcome, self._channels, more)
        metrics |= channel_metrics(batch) | _episode_seconds(episodes)
        if moved is not None:
            divergence = torch.tensor(moved, dtype=torch.float64)
            batch = replace(batch, penalty=self._grpo.kl_weight * divergence)
            metrics["reward/kl"] = float(divergence.mean())
        metrics |= {"duplicates": duplicate_share(sequences, batch)} | _response_tokens(sequences)
        if self._scalarise is None:
            assignments = pending_assignments(sequences, batch)
        else:
            scalarised = self._scalarise(batch)
            metrics |= reward_weight_metrics(batch.names, scalarised)
            assignments = scalarised_assignments(sequences, batch, scalarised, self._grpo)
        groups, start = [], 0
        for played, tokens in tables:
            groups.append(Group(played, tokens, assignments.slice(start, tokens.num_rows)))
            start += tokens.num_rows
        return groups, batch, metrics


def _joined(tables: Sequence[GroupTables]) -> GroupTables:
    """Episodes and sequences of all groups."""
    return GroupTables(*(concat_tables(column) for column in zip(*tables, strict=True)))


def _episode_seconds(episodes: pa.Table) -> dict[str, float]:
    """Where the seconds of an episode went, means over all of them."""
    spent = ("generation", "environment", "waiting")
    count = max(1, episodes.num_rows)
    return {f"episode/{name}_s": sum(episodes[f"{name}_seconds"].to_pylist()) / count for name in spent}


def _response_tokens(sequences: pa.Table) -> dict[str, float]:
    """Mean length of a response; nothing where nobody answered."""
    starts, ends = (sequences[name].combine_chunks().flatten().to_numpy() for name in ("turn_starts", "turn_ends"))
    return {"response_tokens": float((ends - starts).mean())} if len(starts) else {}


def _explored(batch: RewardBatch, groups: Sequence[Group], decisions: Sequence[Decision | None]) -> RewardBatch:
    """The rewards of the groups that GRPO trains on."""
    explored = {
        episode_id
        for group, decision in zip(groups, decisions, strict=True)
        if decision is None or decision.rl_weight
        for episode_id in group.episodes["episode_id"].to_pylist()
    }
    return batch.take(torch.tensor([row for row, name in enumerate(batch.episode_ids) if name in explored]).long())


def _metrics(decisions: Sequence[Decision | None]) -> dict[str, float]:
    made = [decision for decision in decisions if decision is not None]
    metrics = {
        "router/sft": float(sum(decision.route is Route.SFT for decision in made)),
        "router/grpo": float(sum(decision.route is Route.GRPO for decision in made)),
        "router/unrouted": float(len(decisions) - len(made)),
        "router/waiting": float(sum(decision.score is not None and decision.threshold is None for decision in made)),
    }
    for name in ("score", "threshold"):
        values = [value for decision in made if (value := getattr(decision, name)) is not None]
        if values:
            metrics[f"router/{name}"] = sum(values) / len(values)
    return metrics | score_percentiles([decision.score for decision in made])
