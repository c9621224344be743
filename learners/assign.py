"""Assignments without a router: all to SFT, or all to GRPO with advantages from the named rewards or a scalariser."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import torch
from torch import Tensor

from learners import advantages
from learners.config import GRPOConfig
from learners.reward_batch import RewardBatch
from learners.scalarisers import Scalarised
from trajectories import schema
from trajectories.types import Assignment, Route, Sequence, StopReason


def sft_assignments(sequences: pa.Table, ce_weight: float = 1.0) -> pa.Table:
    """Every sequence to SFT."""
    return schema.assignments_to_table(
        Assignment(sequence_id, Route.SFT, 0.0, 0.0, ce_weight, {})
        for sequence_id in sequences["sequence_id"].to_pylist()
    )


def grpo_assignments(
    episodes: pa.Table, sequences: pa.Table, config: GRPOConfig, reward_weights: Mapping[str, float]
) -> pa.Table:
    """Every sequence to GRPO with its episode's advantage (`gigpo`: the mean of its turns' advantages).

    Episodes that ended in an error neither train nor count in their group. Sequences of a group that has no variance
    are routed to `drop` with weight 0: they teach nothing by comparison, and a router may still send them to SFT.

    Args:
        reward_weights: weight of each named reward in the scalar reward; rewards not named have none.
    Raises:
        ValueError: a weight names no reward of these episodes.
    """
    names = schema.reward_names(episodes)
    if unknown := sorted(set(reward_weights) - set(names)):
        raise ValueError(f"reward weights name {unknown}, but these episodes have {list(names)}")
    ids = episodes["episode_id"].to_pylist()
    sound = [row for row, reason in enumerate(episodes["stop_reason"].to_pylist()) if reason != StopReason.ERROR]
    place = {ids[row]: index for index, row in enumerate(sound)}
    group_ids = episodes["group_id"].to_pylist()
    groups = _numbered([group_ids[row] for row in sound])
    vectors = episodes["rewards"].to_pylist() if names else [()] * len(ids)
    rewards = torch.tensor([vectors[row] for row in sound], dtype=torch.float64).reshape(len(sound), len(names))
    weights = torch.tensor([reward_weights.get(name, 0.0) for name in names], dtype=torch.float64)

    trained, members = _trained(sequences, place)
    by_sequence = _sequence_advantages(trained, members, rewards, weights, groups, config)
    return _assignments(
        sequences, trained, members, by_sequence, groups, dict(zip(names, rewards.unbind(1), strict=True))
    )


def scalarised_assignments(
    sequences: pa.Table, batch: RewardBatch, scalarised: Scalarised, config: GRPOConfig
) -> pa.Table:
    """Every sequence to GRPO with the advantage that a scalariser gave its episode (`gigpo`: with that of its turns).

    Sequences of a group without variance, and of episodes that are not in the batch, are routed to `drop`.

    Args:
        batch, scalarised: of all the step's groups together, so that what is normalised over the batch can be.
    """
    place = {episode_id: index for index, episode_id in enumerate(batch.episode_ids)}
    trained, members = _trained(sequences, place)
    by_sequence = scalarised.advantages[members]
    if config.advantage == "gigpo":
        by_sequence = _gigpo(trained, members, scalarised.rewards, batch.groups, config)
    channels = dict(zip(batch.names, batch.rewards.unbind(1), strict=True))
    return _assignments(sequences, trained, members, by_sequence, batch.groups, channels, scalarised.version)


def _trained(sequences: pa.Table, place: Mapping[str, int]) -> tuple[list[Sequence], Tensor]:
    """The sequences of known episodes, and the index of the episode of each, int64 [S]."""
    found = [s for s in schema.sequences_from_table(sequences) if s.episode_id in place]
    return found, torch.tensor([place[s.episode_id] for s in found], dtype=torch.int64)


def _assignments(
    sequences: pa.Table,
    trained: list[Sequence],
    members: Tensor,
    by_sequence: Tensor,
    groups: Tensor,
    channels: Mapping[str, Tensor],
    version: int = 0,
) -> pa.Table:
    """One row a sequence of the table; `members` int64 [S] and advantages `by_sequence` [S] belong to `trained`."""
    counts = (by_sequence.abs() > advantages.EPSILON).float()
    varied = torch.zeros(len(groups)).index_add(0, groups[members], counts)[groups] > 0
    per_reward = {name: advantages.grpo(column, groups) for name, column in channels.items()}
    rows = {}
    for sequence, member, advantage in zip(trained, members.tolist(), by_sequence.tolist(), strict=True):
        useful = bool(varied[member])
        rows[sequence.sequence_id] = Assignment(
            sequence_id=sequence.sequence_id,
            route=Route.GRPO if useful else Route.DROP,
            advantage=advantage if useful else 0.0,
            rl_weight=float(useful),
            ce_weight=0.0,
            reward_advantages={name: float(column[member]) for name, column in per_reward.items()},
            reward_weights_version=version,
        )
    return schema.assignments_to_table(
        rows.get(sequence_id) or Assignment(sequence_id, Route.DROP, 0.0, 0.0, 0.0, dict.fromkeys(channels, 0.0))
        for sequence_id in sequences["sequence_id"].to_pylist()
    )


def _sequence_advantages(
    sequences: list[Sequence], members: Tensor, rewards: Tensor, weights: Tensor, groups: Tensor, config: GRPOConfig
) -> Tensor:
    """float64 [S]; `members` int64 [S] is the episode of each sequence, `rewards` [B, K], `groups` [B]."""
    if config.advantage == "gdpo":
        return advantages.gdpo(rewards, weights, groups)[members]
    scalar = rewards @ weights
    if config.advantage == "gigpo":
        return _gigpo(sequences, members, scalar, groups, config)
    return {"grpo": advantages.grpo, "dr_grpo": advantages.dr_grpo, "rloo": advantages.rloo}[config.advantage](
        scalar, groups
    )[members]


def _gigpo(sequences: list[Sequence], members: Tensor, scalar: Tensor, groups: Tensor, config: GRPOConfig) -> Tensor:
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
    by_turn = advantages.gigpo(
        scalar,
        groups,
        torch.tensor(rewards, dtype=torch.float64),
        torch.tensor(episodes, dtype=torch.int64),
        torch.tensor(states, dtype=torch.int64),
        config.gamma,
        config.step_weight,
    )
    zeros = torch.zeros(len(sequences), dtype=torch.float64)
    counts = zeros.index_add(0, owner, torch.ones_like(by_turn))
    return zeros.index_add(0, owner, by_turn) / counts.clamp(min=1.0)


def _numbered(names: list[str]) -> Tensor:
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return torch.tensor([numbers[name] for name in names], dtype=torch.int64)
