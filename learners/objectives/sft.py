"""Supervised fine-tuning: cross-entropy on demonstrated or consolidated tokens."""

from __future__ import annotations

from learners.objectives import losses
from learners.objectives.objective import Objective, TokenLosses, Tokens


class SFTObjective(Objective):
    """Averages over tokens; `Assignment.ce_weight` weighs sequences."""

    name = "sft"
    metric_names = ("loss",)

    def aggregation(self, tokens: int, whole: int) -> tuple[float, float]:
        return losses.aggregation("token", tokens, whole, constant_length=1)

    def token_losses(self, tokens: Tokens) -> TokenLosses:
        loss = losses.sft_loss(tokens.logprobs)
        return TokenLosses(loss, {"loss": loss.detach()})
