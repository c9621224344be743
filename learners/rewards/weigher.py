"""Advantages that are found while the policy trains, since they depend on its terminal states (the Conductor)."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Many
from dataclasses import dataclass

import torch
from torch import Tensor

from learners.learner_settings import GRPOSettings
from learners.objectives.assign import turn_advantages
from learners.policy import distributed
from learners.rewards.conductor_head import ConductorScalariser
from learners.rewards.reward_batch import RewardBatch
from learners.rewards.scalarisers import Scalarised
from trajectories.types import Sequence


@dataclass(frozen=True, slots=True)
class Weighed:
    """What became of a step's rollouts.

    Attributes:
        rows: int64 [n], index in the step's batch of each rollout that was trained, ascending.
        contexts: float32 [n, H], the policy's state, after its last token by default.
        scalarised: rewards and advantages of these rollouts.
        advantages: of the turns of each sequence, by its id.
    """

    rows: Tensor
    contexts: Tensor
    scalarised: Scalarised
    advantages: Mapping[str, tuple[float, ...]]


class Weigher:
    """Finds advantages group by group, for the groups that one worker trains."""

    def __init__(self, batch: RewardBatch, scalarise: ConductorScalariser, config: GRPOSettings) -> None:
        """
        Args:
            batch: the rewards of all groups of the step, without contexts.
        """
        self._batch, self._scalarise, self._config = batch, scalarise, config
        self._row_of = {name: row for row, name in enumerate(batch.episode_ids)}
        self._sequences: dict[int, list[Sequence]] = {}
        self._found: list[Weighed] = []

    @property
    def ahead(self) -> bool:
        """The states are read in a pass of its own, before the one that trains."""
        return self._scalarise.config.context_pass == "own"

    @property
    def context(self) -> tuple[str, str]:
        """Layer and tokens whose states are read."""
        return self._scalarise.config.context_layer, self._scalarise.config.context_tokens

    def units(self, sequences: Many[Sequence]) -> list[list[int]]:
        """Indices of the sequences, those of a group together: they must be trained by one worker."""
        units: dict[int | str, list[int]] = {}
        for index, sequence in enumerate(sequences):
            row = self._row_of.get(sequence.episode_id)
            unit = sequence.sequence_id if row is None else int(self._batch.groups[row])
            units.setdefault(unit, []).append(index)
        return list(units.values())

    def together(self, sequences: Many[Sequence]) -> list[list[int]]:
        """For each group, the indices of the sequences in which its episodes end: those whose states are read.

        Call it with all that this worker trains; `weigh` then knows the other sequences of these groups.
        """
        ends: dict[int, dict[int, int]] = {}
        for index, sequence in enumerate(sequences):
            if (row := self._row_of.get(sequence.episode_id)) is not None:
                group = int(self._batch.groups[row])
                self._sequences.setdefault(group, []).append(sequence)
                ends.setdefault(group, {})[row] = index  # the last one wins
        return [list(by_row.values()) for by_row in ends.values()]

    def weigh(self, ends: Many[Sequence], states: Tensor) -> Mapping[str, tuple[float, ...]]:
        """Advantages of the turns of every sequence of one group, by its id.

        Args:
            ends: as `together` named them.
            states: float32 [n, H] of each, read as `context` says.
        Raises:
            UserError: the states do not fit the scalariser.
        """
        rows = torch.tensor([self._row_of[sequence.episode_id] for sequence in ends])
        order = rows.argsort()
        rows, contexts = rows[order], states.detach().float().cpu()[order]
        number = int(self._batch.groups[rows[0]])
        # With a member that ended before its first token: it has no state, and yet its group is compared with it.
        group = (self._batch.groups == number).nonzero()[:, 0]
        scalarised = self._scalarise.drawn(self._batch.take(group), torch.searchsorted(group, rows), contexts)
        sequences = self._sequences[number]
        by_sequence = turn_advantages(sequences, self._batch.take(rows), scalarised, self._config)
        advantages = dict(zip((s.sequence_id for s in sequences), by_sequence, strict=True))
        self._found.append(Weighed(rows, contexts, scalarised, advantages))
        return advantages

    def result(self) -> Weighed | None:
        """What all workers together found, on each of them; None where no group was trained."""
        found = [weighed for share in distributed.gather_objects(self._found) for weighed in share]
        return _joined(found) if found else None


def _joined(parts: Many[Weighed]) -> Weighed:
    rows = torch.cat([part.rows for part in parts])
    order = rows.argsort()

    def column(name: str) -> Tensor:
        return torch.cat([getattr(part.scalarised, name) for part in parts])[order]

    sampled = parts[0].scalarised.choices is not None
    scalarised = Scalarised(
        column("rewards"),
        column("advantages"),
        column("reward_weights"),
        parts[0].scalarised.version,
        column("choices") if sampled else None,
        column("probabilities") if sampled else None,
    )
    advantages = {name: value for part in parts for name, value in part.advantages.items()}
    return Weighed(rows[order], torch.cat([part.contexts for part in parts])[order], scalarised, advantages)
