"""Assignments as they are before a router decides: all to GRPO, with the advantages that a scalariser gives."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Many
from dataclasses import replace

import pyarrow as pa
import torch
from torch import Tensor

from learners.learner_settings import GRPOSettings
from learners.objectives import advantages
from learners.rewards.reward_batch import RewardBatch
from learners.rewards.scalarisers import Scalarised
from trajectories import schema
from trajectories.types import Assignment, Route, Sequence


def scalarised_assignments(
    sequences: pa.Table, batch: RewardBatch, scalarised: Scalarised, config: GRPOSettings
) -> pa.Table:
    """Every sequence to GRPO with the advantage that a scalariser gave its episode (`gigpo`: with that of its turns).

    Sequences of a group without variance are routed to `drop` with weight 0: they teach nothing by comparison, and a
    router may still send them to SFT. So are those of episodes that are not in the batch, since they ended in an error.

    Args:
        batch, scalarised: rewards and advantages of all the step's groups together, so that what is normalised over
            the batch can be.
    """
    trained, members = _trained(sequences, batch)
    by_sequence = sequence_advantages(trained, batch, scalarised, config)
    counts = (by_sequence.abs() > advantages.EPSILON).float()
    varied = torch.zeros(len(batch.groups)).index_add(0, batch.groups[members], counts)[batch.groups] > 0
    return _assignments(sequences, batch, trained, varied[members], by_sequence, scalarised.version)


def pending_assignments(sequences: pa.Table, batch: RewardBatch) -> pa.Table:
    """Every sequence to GRPO, its advantage still 0: `learners.rewards.weigher` finds it while the policy trains.

    Sequences of a group in which no channel varies, and of episodes that are not in the batch, go to `drop`.
    """
    trained, members = _trained(sequences, batch)
    varied = torch.zeros(len(batch.groups), dtype=torch.bool)
    for column in batch.rewards.unbind(1):
        varied |= ~advantages.zero_variance(column, batch.groups)
    nothing = torch.zeros(len(trained), dtype=torch.float64)
    return _assignments(sequences, batch, trained, varied[members], nothing, version=0)


def completed_assignments(assignments: pa.Table, found: Mapping[str, float], version: int) -> pa.Table:
    """The assignments with the advantages that were found by sequence id, and the version of the reward weights."""
    return schema.assignments_to_table(
        replace(row, advantage=found[row.sequence_id], reward_weights_version=version)
        if row.sequence_id in found
        else row
        for row in schema.assignments_from_table(assignments)
    )


def sequence_advantages(
    sequences: Many[Sequence], batch: RewardBatch, scalarised: Scalarised, config: GRPOSettings
) -> Tensor:
    """Advantage of each sequence, float64 [S], all of episodes of the batch, the turns of each in order of play."""
    members = _members(sequences, batch)
    if config.advantage == "gigpo":
        return _gigpo(sequences, members, scalarised.rewards, batch.groups, config)
    return scalarised.advantages[members]


def _trained(sequences: pa.Table, batch: RewardBatch) -> tuple[list[Sequence], Tensor]:
    """The sequences of the batch's episodes, and the index of the episode of each, int64 [S]."""
    known = set(batch.episode_ids)
    found = [s for s in schema.sequences_from_table(sequences) if s.episode_id in known]
    return found, _members(found, batch)


def _members(sequences: Many[Sequence], batch: RewardBatch) -> Tensor:
    place = {episode_id: index for index, episode_id in enumerate(batch.episode_ids)}
    return torch.tensor([place[sequence.episode_id] for sequence in sequences], dtype=torch.int64)


def _assignments(
    sequences: pa.Table,
    batch: RewardBatch,
    trained: Many[Sequence],
    useful: Tensor,
    by_sequence: Tensor,
    version: int,
) -> pa.Table:
    """One row a sequence of the table; `useful` bool [S] and advantages `by_sequence` [S] belong to `trained`."""
    members = _members(trained, batch).tolist()
    per_reward = {
        name: advantages.grpo(column, batch.groups)
        for name, column in zip(batch.names, batch.rewards.unbind(1), strict=True)
    }
    rows = {}
    for sequence, member, advantage, counts in zip(
        trained, members, by_sequence.tolist(), useful.tolist(), strict=True
    ):
        rows[sequence.sequence_id] = Assignment(
            sequence_id=sequence.sequence_id,
            route=Route.GRPO if counts else Route.DROP,
            advantage=advantage if counts else 0.0,
            rl_weight=float(counts),
            ce_weight=0.0,
            reward_advantages={name: float(column[member]) for name, column in per_reward.items()},
            reward_weights_version=version,
        )
    return schema.assignments_to_table(
        rows.get(sequence_id) or Assignment(sequence_id, Route.DROP, 0.0, 0.0, 0.0, dict.fromkeys(batch.names, 0.0))
        for sequence_id in sequences["sequence_id"].to_pylist()
    )


def _gigpo(sequences: Many[Sequence], members: Tensor, scalar: Tensor, groups: Tensor, config: GRPOSettings) -> Tensor:
    order = sorted(range(len(sequences)), key=lambda index: int(members[index]))  # stable: turns stay in order of play
    rewards, episodes, states, owners = [], [], [], []
    reached: dict[int, int] = {}
    for index in order:
        episode = int(members[index])
        for turn in sequences[index].turns:
            # A turn carries the hash of the state it led to; its anchor is the state before, 0 for the common start.
            states.append(reached.get(episode, 0))
            rewards.append(turn.reward)
            episodes.append(episode)
            owners.append(index)
            reached[episode] = turn.state_hash
    owner = torch.tensor(owners, dtype=torch.int64)
    turns = advantages.Turns(
        torch.tensor(rewards, dtype=torch.float64),
        torch.tensor(episodes, dtype=torch.int64),
        torch.tensor(states, dtype=torch.int64),
    )
    by_turn = advantages.gigpo(scalar, groups, turns, config.gamma, config.step_weight)
    zeros = torch.zeros(len(sequences), dtype=torch.float64)
    counts = zeros.index_add(0, owner, torch.ones_like(by_turn))
    return zeros.index_add(0, owner, by_turn) / counts.clamp(min=1.0)
