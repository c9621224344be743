"""Group-relative policy optimisation and its variants. Settings of the published ones:

GRPO (arXiv 2402.03300)     clip_high 0.2, aggregation sequence
Dr. GRPO (arXiv 2503.20783) advantage dr_grpo, clip_high 0.2, aggregation constant
DAPO (arXiv 2503.14476)     clip_high 0.28, aggregation token
GSPO (arXiv 2507.18071)     ratio sequence, clip_low 3e-4, clip_high 4e-4, aggregation sequence
AReaL (arXiv 2505.24298)    proximal batch, clip_high 0.2, and schedule.max_staleness above 1
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from learners.learner_settings import GRPOSettings
from learners.objectives import losses
from learners.objectives.objective import Objective, TokenLosses, Tokens


class GRPOObjective(Objective):
    """Policy gradient with given advantages, which `learners.objectives.assign` makes; `Assignment.rl_weight` weighs
    sequences.

    Metrics, averages over tokens: `loss`; `ratio` to the behaviour policy; `clip_fraction` of tokens without gradient;
    `masked_fraction` outside the bands; `behaviour_kl`, the k3 estimate of how far the sampling policy is;
    `reference_kl`, of how far the policy has moved (0 unless it is a term of the loss); `entropy` of the policy, in
    nats.
    """

    name = "grpo"
    needs_entropy = True
    metric_names = ("loss", "ratio", "clip_fraction", "masked_fraction", "behaviour_kl", "reference_kl", "entropy")

    def __init__(self, config: GRPOSettings) -> None:
        super().__init__(config)
        self.config = config
        self.needs_reference = config.kl_weight > 0 and not config.folds_kl
        self.raises_entropy = config.entropy_weight > 0

    @property
    def betas(self) -> tuple[float, float] | None:
        return self.config.betas

    def aggregation(self, tokens: int, whole: int) -> tuple[float, float]:
        return losses.aggregation(self.config.aggregation, tokens, whole, self.config.constant_length)

    def token_losses(self, tokens: Tokens) -> TokenLosses:
        # Of a token that is all but certain vLLM may tell no number; it counts as sampled by the present policy.
        told = torch.where(tokens.behaviour.isfinite(), tokens.behaviour, tokens.logprobs.detach())
        config, tokens = self.config, replace(tokens, behaviour=told)
        proximal = self._proximal(tokens)
        ratio = self._ratio(tokens.logprobs, proximal, tokens.sequence)
        stale = self._ratio(proximal, tokens.behaviour, tokens.sequence).clamp(max=config.ratio_cap)
        clip = (config.clip_low, config.clip_high)
        loss = stale * losses.policy_loss(ratio, tokens.advantages, *clip, config.ratio_cap)
        by_token = losses.token_ratio(tokens.logprobs, tokens.behaviour)
        kept = losses.inside(by_token, config.icepop_band)
        if config.sequence_band:  # to tell sequences apart the host would wait for an accelerator
            by_sequence = losses.sequence_ratio(tokens.logprobs, tokens.behaviour, tokens.sequence)
            kept = kept & losses.inside(by_sequence, config.sequence_band)
        reference_kl = loss.new_zeros(len(loss))
        if tokens.reference is not None:
            reference_kl = losses.k3_kl(tokens.logprobs, tokens.reference)
            loss = loss + config.kl_weight * reference_kl
        assert tokens.entropy is not None, "GRPO needs entropies"
        if self.raises_entropy:
            loss = loss - config.entropy_weight * tokens.entropy
        loss = loss * kept
        metrics = {
            "loss": loss,
            "ratio": by_token,
            "clip_fraction": losses.clipped_tokens(ratio, tokens.advantages, *clip).float(),
            "masked_fraction": 1.0 - kept.float(),
            "behaviour_kl": losses.k3_kl(tokens.behaviour, tokens.logprobs),
            "reference_kl": reference_kl,
            "entropy": tokens.entropy,
        }
        return TokenLosses(loss, {name: value.detach() for name, value in metrics.items()})

    def _proximal(self, tokens: Tokens) -> Tensor:
        """Log-probabilities of the policy near which the clipped one stays, float [N], without a gradient."""
        if self.config.proximal == "behaviour":
            return tokens.behaviour
        return tokens.logprobs.detach() if tokens.proximal is None else tokens.proximal

    def _ratio(self, logprobs: Tensor, others: Tensor, sequence: Tensor) -> Tensor:
        if self.config.ratio == "sequence":
            return losses.sequence_ratio(logprobs, others, sequence)
        return losses.token_ratio(logprobs, others)
