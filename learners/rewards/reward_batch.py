"""`RewardBatch`: the named rewards of some rollouts, taken from their episodes table and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import torch
from torch import Tensor

from envs.kinds import task_kind
from learners.objectives import advantages
from learners.rewards.maths import reward_matrix
from trajectories import schema
from trajectories.errors import UserError
from trajectories.types import StopReason


@dataclass(frozen=True, slots=True)
class RewardBatch:
    """The rewards of B rollouts, checked.

    Attributes:
        names: the K channels.
        rewards: float64 [B, K], finite.
        groups: int64 [B], in [0, B).
        outcome: float64 [B], the verifiable channel; it need not be among `names`.
        contexts: float32 [B, H], the policy's state after the last token of each rollout; None where nobody needs it.
        truncated: ids of the episodes that a limit on turns or tokens cut off.
        penalty: float64 [B], subtracted from whatever scalar reward is made of the channels; None where there is none.
        kinds: kind of each rollout's task, B of them; empty where nobody said.
    """

    names: tuple[str, ...]
    episode_ids: tuple[str, ...]
    rewards: Tensor
    groups: Tensor
    outcome: Tensor
    contexts: Tensor | None = None
    truncated: frozenset[str] = frozenset()
    penalty: Tensor | None = None
    kinds: tuple[str, ...] = ()

    def penalised(self, scalar: Tensor) -> Tensor:
        """Scalar rewards [B] less the penalty, float64 [B]."""
        return scalar.double() if self.penalty is None else scalar.double() - self.penalty

    def take(self, rows: Tensor) -> RewardBatch:
        """Some of the rollouts, in the order of `rows` int64 [n]."""
        return RewardBatch(
            self.names,
            tuple(self.episode_ids[row] for row in rows.tolist()),
            self.rewards[rows],
            torch.unique(self.groups[rows], return_inverse=True)[1],
            self.outcome[rows],
            self.contexts[rows] if self.contexts is not None else None,
            self.truncated,
            self.penalty[rows] if self.penalty is not None else None,
            tuple(self.kinds[row] for row in rows.tolist()) if self.kinds else (),
        )


def reward_batch(
    episodes: pa.Table,
    outcome: str = "success",
    names: Sequence[str] = (),
    more: Mapping[str, Sequence[float]] | None = None,
) -> RewardBatch:
    """The rewards of the sound episodes of a table; those that ended in an error have none.

    Args:
        outcome: name of the verifiable channel.
        names: channels to weigh; empty: all there are.
        more: channels that are not in the table, one value a sound episode, in their order.
    Raises:
        UserError: a channel is missing, has the wrong length or a value that is not finite.
    """
    ids, group_ids = episodes["episode_id"].to_pylist(), episodes["group_id"].to_pylist()
    reasons = [StopReason(reason) for reason in episodes["stop_reason"].to_pylist()]
    sound = [row for row, reason in enumerate(reasons) if reason is not StopReason.ERROR]
    tasks = list(zip(episodes["environment"].to_pylist(), episodes["task_id"].to_pylist(), strict=True))
    named = schema.reward_names(episodes)
    vectors = episodes["rewards"].to_pylist() if named else []
    channels: dict[str, Sequence[float]] = {
        name: [vectors[row][index] for row in sound] for index, name in enumerate(named)
    }
    channels |= more or {}
    numbers = {name: number for number, name in enumerate(dict.fromkeys(group_ids[row] for row in sound))}
    names, episode_ids = tuple(names or channels), tuple(ids[row] for row in sound)
    return RewardBatch(
        names=names,
        episode_ids=episode_ids,
        rewards=reward_matrix(channels, names, episode_ids),
        groups=torch.tensor([numbers[group_ids[row]] for row in sound], dtype=torch.int64),
        outcome=reward_matrix(channels, (outcome,), episode_ids)[:, 0],
        truncated=frozenset(ids[row] for row, reason in enumerate(reasons) if reason.truncated),
        kinds=tuple(task_kind(*tasks[row]) for row in sound),
    )


class ConstantWatch:
    """Finds channels that never change. One batch in which all fail is no mistake; a thousand episodes are."""

    def __init__(self, limit: int) -> None:
        """`limit`: episodes after which a channel that has had one value only is refused."""
        self._limit = limit
        self._seen = 0
        self._low: dict[str, float] = {}
        self._high: dict[str, float] = {}

    def observe(self, batch: RewardBatch) -> None:
        """Look at a batch. Raises UserError."""
        self._seen += len(batch.episode_ids)
        for name, column in zip(batch.names, batch.rewards.unbind(1), strict=True):
            if len(column):
                self._low[name] = min(self._low.get(name, float("inf")), float(column.min()))
                self._high[name] = max(self._high.get(name, float("-inf")), float(column.max()))
        if self._seen < self._limit:
            return
        for name, low in self._low.items():
            if self._high[name] - low <= advantages.EPSILON:
                raise UserError(
                    f"reward channel {name!r} is {low:g} in all of {self._seen} episodes up to "
                    f"{batch.episode_ids[-1]}: raise reward.constant_limit and resume, or start a run without it in "
                    "reward.channels"
                )
