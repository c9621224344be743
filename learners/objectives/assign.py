"""Assignments as they are before a router decides: all to GRPO, with the advantages that a scalariser gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Sequence as Many
from dataclasses import dataclass, replace

import pyarrow as pa
import torch
from torch import Tensor

from learners.learner_settings import GRPOSettings
from learners.objectives import advantages, credit
from learners.objectives.advantages import EPSILON
from learners.objectives.credit import Turns
from learners.rewards.reward_batch import RewardBatch
from learners.rewards.scalarisers import Scalarised
from trajectories import schema
from trajectories.types import Assignment, Route, Sequence

SOLVED = 1.0
"""Outcome of a rollout that reached the goal."""


def scalarised_assignments(
    sequences: pa.Table, batch: RewardBatch, scalarised: Scalarised, config: GRPOSettings
) -> pa.Table:
    """Every sequence to GRPO with the advantages of its turns.

    Sequences of a group without variance are routed to `drop` with weight 0: they teach nothing by comparison, and a
    router may still send them to SFT. So are those of episodes that are not in the batch, since they ended in an error,
    and, where `config` masks them, those of truncated episodes and of nothing but truncated responses; such a response
    within a transcript has the advantage 0. Their group was compared with them all the same.

    Args:
        batch, scalarised: rewards and advantages of all the step's groups together, so that what is normalised over
            the batch can be.
    """
    trained, members = _trained(sequences, batch)
    by_sequence = turn_advantages(trained, batch, scalarised, config)
    counts = torch.tensor([float(any(abs(value) > EPSILON for value in values)) for values in by_sequence])
    varied = torch.zeros(len(batch.groups)).index_add(0, batch.groups[members], counts)[batch.groups] > 0
    trains = torch.ones(len(trained), dtype=torch.bool)
    if config.truncated == "mask":
        by_sequence = [_of_complete(*pair) for pair in zip(trained, by_sequence, strict=True)]
        trains = torch.tensor([_is_complete(sequence, batch) for sequence in trained], dtype=torch.bool)
    return _assignments(sequences, batch, trained, varied[members] & trains, by_sequence, scalarised.version)


def pending_assignments(sequences: pa.Table, batch: RewardBatch) -> pa.Table:
    """Every sequence to GRPO, its advantages still 0: `learners.rewards.weigher` finds them while the policy trains.

    Sequences of a group in which no channel varies, and of episodes that are not in the batch, go to `drop`.
    """
    trained, members = _trained(sequences, batch)
    varied = torch.zeros(len(batch.groups), dtype=torch.bool)
    for column in batch.rewards.unbind(1):
        varied |= ~advantages.zero_variance(column, batch.groups)
    nothing = [(0.0,) * len(sequence.turns) for sequence in trained]
    return _assignments(sequences, batch, trained, varied[members], nothing, version=0)


def completed_assignments(assignments: pa.Table, found: Mapping[str, tuple[float, ...]], version: int) -> pa.Table:
    """The assignments with the advantages that were found by sequence id, and the version of the reward weights."""
    return schema.assignments_to_table(
        replace(row, advantages=found[row.sequence_id], reward_weights_version=version)
        if row.sequence_id in found
        else row
        for row in schema.assignments_from_table(assignments)
    )


def duplicate_share(sequences: pa.Table, batch: RewardBatch) -> float:
    """Share of the batch's episodes in which every action, token by token, is that of an earlier member of the group:
    they cost a whole episode and explore nothing.

    Three members that act a b, a b and a c: 1/3.
    """
    trained, members = _trained(sequences, batch)
    actions: list[list[bytes]] = [[] for _ in batch.episode_ids]
    for sequence, member in zip(trained, members.tolist(), strict=True):
        actions[member] += [sequence.token_ids[turn.start : turn.end].tobytes() for turn in sequence.turns]
    distinct = set(zip(batch.groups.tolist(), map(tuple, actions), strict=True))
    return 1.0 - len(distinct) / max(len(actions), 1)


def turn_advantages(
    sequences: Many[Sequence], batch: RewardBatch, scalarised: Scalarised, config: GRPOSettings
) -> list[tuple[float, ...]]:
    """Advantages of each sequence, one a turn, all of episodes of the batch, the turns of each in order of play.

    An advantage of the whole episode is that of all its turns; an estimator of single turns adds to it, weighed by
    `step_weight`, and invalid actions cost `invalid_penalty` against the group's mean.
    """
    played = _Played.of(sequences, _members(sequences, batch))
    by_turn = scalarised.advantages[played.turns.episodes]
    if (step := STEP_ADVANTAGES.get(config.advantage)) is not None:
        by_turn = by_turn + config.step_weight * step(played.turns, batch, config)
    if config.invalid_penalty:
        owners = credit.owners(played.turns, batch.groups)
        by_turn = by_turn - config.invalid_penalty * advantages.dr_grpo(played.invalid, owners)
    found: list[list[float]] = [[] for _ in sequences]
    for owner, advantage in zip(played.owners, by_turn.tolist(), strict=True):
        found[owner].append(advantage)
    return [tuple(values) for values in found]


STEP_ADVANTAGES: dict[str, Callable[[Turns, RewardBatch, GRPOSettings], Tensor]] = {
    "gigpo": lambda turns, batch, config: credit.gigpo(turns, batch.groups, config.gamma),
    "anchored": lambda turns, batch, config: credit.anchored(turns, batch.groups, config.gamma),
    "gae": lambda turns, batch, config: credit.gae(turns, batch.groups, config.gamma, config.decay),
    "graph": lambda turns, batch, config: credit.graph(turns, batch.groups, batch.outcome >= SOLVED),
}
"""Advantages [M] of single turns, by `GRPOSettings.advantage`; the others know episodes only."""


@dataclass(frozen=True, slots=True)
class _Played:
    """The M turns of some sequences.

    Attributes:
        owners: index of the sequence of each.
        invalid: float64 [M], 1 where an action did nothing.
    """

    turns: Turns
    owners: list[int]
    invalid: Tensor

    @classmethod
    def of(cls, sequences: Many[Sequence], members: Tensor) -> _Played:
        """`members`: int64 [S], index of the episode of each sequence."""
        order = sorted(range(len(sequences)), key=lambda index: int(members[index]))  # stable: in order of play
        rewards, episodes, states, owners, invalid = [], [], [], [], []
        reached: dict[int, int] = {}
        for index in order:
            episode = int(members[index])
            for turn in sequences[index].turns:
                # A turn has the hash of the state it led to; it was played in the one before, 0 for the common start.
                states.append(reached.get(episode, 0))
                rewards.append(turn.reward)
                episodes.append(episode)
                owners.append(index)
                invalid.append(float(not turn.action_valid))
                reached[episode] = turn.state_hash
        turns = Turns(
            torch.tensor(rewards, dtype=torch.float64),
            torch.tensor(episodes, dtype=torch.int64),
            torch.tensor(states, dtype=torch.int64),
        )
        return cls(turns, owners, torch.tensor(invalid, dtype=torch.float64))


def _is_complete(sequence: Sequence, batch: RewardBatch) -> bool:
    return sequence.episode_id not in batch.truncated and not all(turn.truncated for turn in sequence.turns)


def _of_complete(sequence: Sequence, by_turn: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(0.0 if turn.truncated else value for turn, value in zip(sequence.turns, by_turn, strict=True))


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
    by_sequence: Many[tuple[float, ...]],
    version: int,
) -> pa.Table:
    """One row a sequence of the table; `useful` bool [S] and the advantages `by_sequence` belong to `trained`."""
    members = _members(trained, batch).tolist()
    per_reward = {
        name: advantages.grpo(column, batch.groups)
        for name, column in zip(batch.names, batch.rewards.unbind(1), strict=True)
    }
    rows = {}
    for sequence, member, by_turn, counts in zip(trained, members, by_sequence, useful.tolist(), strict=True):
        rows[sequence.sequence_id] = Assignment(
            sequence_id=sequence.sequence_id,
            route=Route.GRPO if counts else Route.DROP,
            advantages=by_turn if counts else (),
            rl_weight=float(counts),
            ce_weight=0.0,
            reward_advantages={name: float(column[member]) for name, column in per_reward.items()},
            reward_weights_version=version,
        )
    return schema.assignments_to_table(
        rows.get(sequence_id) or Assignment(sequence_id, Route.DROP, (), 0.0, 0.0, dict.fromkeys(batch.names, 0.0))
        for sequence_id in sequences["sequence_id"].to_pylist()
    )
