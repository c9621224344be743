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

from learners.rewards.reward_settings import LengthShape
from trajectories.errors import UserError

TokenValues = Sequence[npt.NDArray[np.floating]]
"""One array for each response, with one value a token."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What the policy makes of some sequences, in their order.

    Attributes:
        logprobs: log-probability of every trained token.
        entropies: entropy of the policy's distribution at every trained token, in nats.
        initial: log-probability of every trained token by the weights that the run started from; none where nobody
            needs it.
    """

    logprobs: TokenValues
    entropies: TokenValues
    initial: TokenValues = ()


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


def mean_entropy(entropies: TokenValues, sign: int, episode_ids: Sequence[str]) -> Tensor:
    """The channel `entropy`: the mean entropy of a response's tokens times the sign, in nats, float64 [B].

    Args:
        entropies: entropies of the policy's distribution at every token of the response.
        sign: -1 where certain responses are better (EM-GRPO), 1 where uncertain ones are.
    Raises:
        UserError: a response has no token.
    """
    return sign * _means(entropies, "entropy", episode_ids)


def divergence(logprobs: TokenValues, initial: TokenValues, episode_ids: Sequence[str]) -> Tensor:
    """How far the policy has moved, log(now / initial), the mean over each response's tokens, in nats, float64 [B].

    In a reward only this estimate (Schulman's k1) will do, though single ones may be negative: what REINFORCE makes of
    it is the gradient of the divergence. That of k3, which suits a loss, would push the policy away.

    Args:
        logprobs, initial: log-probabilities of a response's tokens by the present weights and by the initial ones.
    Raises:
        UserError: a response has no token.
    """
    pairs = zip(logprobs, initial, strict=True)
    tokens = [np.asarray(now, np.float64) - np.asarray(first, np.float64) for now, first in pairs]
    return _means(tokens, "kl", episode_ids)


def length(tokens: Sequence[float], limit: int, shape: LengthShape, target: float) -> Tensor:
    """The channel `length` of responses of so many tokens, float64 [B] in [0, 1], with x = tokens / limit:

        short:   1 - x
        target:  1 - |x - target|
        overlong: 1 up to target, then (1 - x) / (1 - target)

    With a limit of 100 and a target of 0.5, 25 and 75 tokens are worth 0.75 and 0.25, 0.75 and 0.75, 1 and 0.5.

    Args:
        limit: most tokens of a response.
        target: a share of the limit, in (0, 1).
    """
    x = torch.as_tensor(tokens, dtype=torch.float64) / limit
    match shape:
        case "short":
            return 1.0 - x
        case "target":
            return 1.0 - (x - target).abs()
        case "overlong":
            return ((1.0 - x) / (1.0 - target)).clamp(max=1.0)


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
