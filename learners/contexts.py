"""What the Conductor reads: the policy's final-layer state after the last token of each rollout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from learners.rewards import RewardError
from router.batch import collate
from router.probe import PolicyNetwork, final_states
from trajectories import types
from trajectories.packing import IDLE, plan_batches


def last_sequences(sequences: Sequence[types.Sequence], episode_ids: Sequence[str]) -> list[types.Sequence]:
    """The sequence in which each episode ends, in the order of `episode_ids`.

    An episode has several in windowed mode, one a turn, and where a chat template has rewritten the past.

    Raises:
        RewardError: an episode has none.
    """
    last = {sequence.episode_id: sequence for sequence in sequences}
    if missing := [name for name in episode_ids if name not in last]:
        raise RewardError(f"episode {missing[0]} has no sequence, so the Conductor has no context for it: leave it out")
    return [last[name] for name in episode_ids]


@torch.no_grad()
def terminal_states(
    policy: PolicyNetwork,
    sequences: Sequence[types.Sequence],
    token_budget: int,
    most: Callable[[int], int] = lambda passes: passes,
) -> Tensor:
    """The state after the last token of each sequence, float32 [S, H] on the CPU, in their order.

    One forward pass without the output head. Where the gradient probe runs anyway, `ProbeResult.hidden` is the same.

    Args:
        token_budget: tokens (padding counted) in one pass; a longer sequence goes alone. Changes memory and speed only.
        most: the largest of the workers' values, where several share a sharded model: as many passes run on each.
    """
    lm = policy.causal_lm
    states = torch.zeros(len(sequences), lm.config.hidden_size)
    plan = plan_batches([len(sequence.token_ids) for sequence in sequences], token_budget)
    idle = most(len(plan)) - len(plan)  # asked first: a worker that asks while another still runs a pass waits for ever
    for rows in plan:
        states[rows] = _states(policy, [sequences[index] for index in rows])
    for _ in range(idle):
        _states(policy, [IDLE])
    return states


def _states(policy: PolicyNetwork, sequences: Sequence[types.Sequence]) -> Tensor:
    batch = collate(sequences, next(policy.causal_lm.parameters()).device)
    nothing = {name: getattr(batch, name)[:0] for name in ("positions", "targets", "rows", "temperature")}
    with final_states(policy.causal_lm, batch) as states:
        policy(replace(batch, **nothing))
    return states[0].cpu()
