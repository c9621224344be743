"""Reward channels for open-domain text, as pure functions: nothing here runs a model. Higher is better in all of them.

B responses, in the order of `episode_ids`. Of the five channels of arXiv 2601.07208 the other two are `format`, which
the environment itself gives by name, and `preference` (`learners.rewards.preference`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trajectories.errors import UserError

TokenValues = Sequence[npt.NDArray[np.floating]]
"""One array for each response, with one value a token."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What the policy makes of some sequences, in their order.

    Attributes:
        logprobs: log-probability of every trained token.
        entropies: entropy of the policy's distribution at every trained token, in nats.
    """

    logprobs: TokenValues
    entropies: TokenValues


def reference(logprobs: TokenValues, reasoning_tokens: Sequence[int], episode_ids: Sequence[str]) -> Tensor:
    """The channel `reference`: minus the logarithm of NOVER's reasoning perplexity, float64 [B] (arXiv 2505.16022).

    P = exp(-sum_i log pi(g_i | prompt, t, g_<i) / (|g| c(|t|))) with c(|t|) = max(1, 1 + log |t|): how well the policy,
    after its own reasoning t, foresees the reference answer g. The normaliser c keeps long reasoning, after which
    anything is foreseen a little worse, from losing for its length alone. The logarithm keeps the order and the digits.

    Args:
        logprobs: log-probabilities of the tokens of the reference, put after the reasoning in place of the response's
            own answer.
        reasoning_tokens: |t|.
    Raises:
        UserError: a reference has no token.
    """
    length = torch.as_tensor(reasoning_tokens, dtype=torch.float64)
    return _means(logprobs, "reference", episode_ids) / (1.0 + length.clamp(min=1.0).log())


def certainty(entropies: TokenValues, episode_ids: Sequence[str]) -> Tensor:
    """The channel `entropy`: minus the mean entropy of a response's tokens, in nats, float64 [B].

    Args:
        entropies: entropies of the policy's distribution at every token of the response.
    Raises:
        UserError: a response has no token.
    """
    return -_means(entropies, "entropy", episode_ids)


def brevity(tokens: Sequence[float], limit: int) -> Tensor:
    """The channel `length`: 1 - tokens / limit, float64 [B]; 0 for a response that used up its `limit` tokens."""
    return 1.0 - torch.as_tensor(tokens, dtype=torch.float64) / limit


def _means(values: TokenValues, channel: str, episode_ids: Sequence[str]) -> Tensor:
    if len(values) != len(episode_ids):
        raise UserError(
            f"reward channel {channel!r} has values for {len(values)} of {len(episode_ids)} episodes, which begin with "
            f"{episode_ids[0] if episode_ids else '(none)'}: give one array each"
        )
    for episode_id, tokens in zip(episode_ids, values, strict=True):
        if not len(tokens):
            raise UserError(
                f"reward channel {channel!r} has no token in episode {episode_id}: leave the channel or the task out"
            )
    return torch.tensor([float(np.mean(tokens, dtype=np.float64)) for tokens in values], dtype=torch.float64)
