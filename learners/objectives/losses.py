"""Losses of single tokens, as pure functions on tensors. N is the number of trained tokens of a micro-batch.

Every loss is returned per token; `aggregation` gives the factor and the count by which the sum over all tokens of all
workers becomes a mean. No configuration object comes in here and nothing is logged.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

HIGHEST = 20.0
"""Nats of log-ratio from which on a ratio rises no further, far above any cap: float32 has no number beyond 88, and an
infinite ratio times a factor of 0 would be none, whether its token is clipped, masked or not."""


def sft_loss(logprobs: Tensor) -> Tensor:
    """Cross-entropy, float [N]. A token of probability 1/2 costs ln 2 = 0.693."""
    return -logprobs


def token_ratio(logprobs: Tensor, behaviour: Tensor) -> Tensor:
    """pi(token) / mu(token), float [N]: current policy over the one that sampled it."""
    return _bounded_exp(logprobs - behaviour)


def sequence_ratio(logprobs: Tensor, behaviour: Tensor, sequence: Tensor) -> Tensor:
    """Geometric mean of the token ratios of each sequence, float [N], repeated for its tokens (GSPO, arXiv 2507.18071).

    Each token has the value of its sequence and a gradient of its own (GSPO-token, section 4.3): where all tokens of a
    sequence have one advantage the sum is GSPO's, and where turns differ each is trained by its own.

    Args:
        sequence: int64 [N], which sequence a token belongs to; any numbers.
    """
    sequence = torch.unique(sequence, return_inverse=True)[1]
    difference = logprobs - behaviour
    sums = torch.zeros_like(difference).index_add(0, sequence, difference)
    counts = torch.zeros_like(difference).index_add(0, sequence, torch.ones_like(difference))
    whole = _bounded_exp(sums / counts.clamp(min=1.0))[sequence].detach()
    return whole * torch.exp(logprobs - logprobs.detach())


def policy_loss(ratio: Tensor, advantages: Tensor, clip_low: float, clip_high: float, ratio_cap: float) -> Tensor:
    """Clipped surrogate with truncated importance weights, float [N].

        loss = -min(w A, clip(ratio, 1 - clip_low, 1 + clip_high) A),   w = ratio min(1, cap / ratio.detach())

    Clipping alone leaves a negative advantage unbounded as the ratio grows; the truncated weight w has the value
    min(ratio, cap) and the gradient of min(ratio, cap) log pi, which is truncated importance sampling.
    With A = -1, ratio 3, cap 2: loss 2. With A = 1, ratio 3, clip_high 0.28: loss -1.28 and no gradient.
    """
    truncated = ratio * (ratio_cap / ratio.detach()).clamp(max=1.0)
    clipped = ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    return -torch.minimum(truncated * advantages, clipped * advantages)


def clipped_tokens(ratio: Tensor, advantages: Tensor, clip_low: float, clip_high: float) -> Tensor:
    """True where clipping takes the gradient away, bool [N]."""
    return ((ratio > 1.0 + clip_high) & (advantages > 0)) | ((ratio < 1.0 - clip_low) & (advantages < 0))


def inside(ratio: Tensor, band: tuple[float, float] | None) -> Tensor:
    """True where the ratio lies inside [low, high], bool [N], or where there is no band. Others do not train: engine
    and learner disagree, or the token is too old (IcePop; by sequence, a geometric mask)."""
    low, high = band or (0.0, float("inf"))
    return (ratio >= low) & (ratio <= high)


def k3_kl(logprobs: Tensor, reference: Tensor) -> Tensor:
    """Unbiased, non-negative estimate of KL(policy || reference) for every token, float [N]:
    exp(d) - d - 1 with d = reference - logprobs (Schulman's k3). Probabilities 1/2 and 1/4: 0.5 + 0.693 - 1 = 0.193."""
    difference = reference - logprobs
    return _bounded_exp(difference) - difference - 1.0


def aggregation(
    kind: Literal["token", "sequence", "constant"], tokens: int, whole: int, constant_length: int
) -> tuple[float, float]:
    """(factor of each token's loss, count) of one sequence with `tokens` trained tokens, of `whole` in its episode.

    The objective is sum(factor * loss) / sum(count) over all sequences of all workers:
    `token` averages over tokens (DAPO), `sequence` over episodes of mean tokens (GRPO, GSPO), `constant` over episodes
    of sums divided by one constant (Dr. GRPO: no bias towards short answers). An episode counts as one, whether it is a
    single sequence or, with windowed prompts, as many as it has turns; else long ones would have more say.
    """
    if kind == "token":
        return 1.0, float(tokens)
    return 1.0 / (whole if kind == "sequence" else constant_length), tokens / whole


def _bounded_exp(difference: Tensor) -> Tensor:
    """exp, at most that of `HIGHEST`, and its own derivative also there."""
    fixed = difference.detach()
    return torch.exp(fixed.clamp(max=HIGHEST) + (difference - fixed))
