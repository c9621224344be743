"""Configuration of the learner: policy, optimiser, and the two objectives."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from trajectories.settings import Settings


class LoraSettings(Settings):
    """Low-rank adapters on linear layers, through PEFT."""

    rank: int = Field(default=16, ge=1)
    """Rank of every adapter. Tuning: 8 to 32 for RL, 64 and more to absorb much SFT data."""
    alpha: float = Field(default=32.0, gt=0)
    """Adapters are scaled by alpha / rank. Tuning: keep at twice the rank and change the learning rate instead."""
    target_modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Names of the layers that get an adapter."""


class PolicySettings(Settings):
    """The model that is trained."""

    model: str
    """Directory or hub name of a Hugging Face causal language model."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the computation and of published weights. Weights that train stay in float32 beside it."""
    lora: LoraSettings | None = None
    """Adapters instead of full weights. Tuning: ten times the learning rate of full weights."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: a third slower, several times less memory."""


class OptimizerSettings(Settings):
    """AdamW, shared by both objectives."""

    lr: float = Field(default=1e-5, gt=0)
    """Learning rate after warm-up. Tuning: 1e-6 to 1e-5 for full weights of a large model, 1e-4 for LoRA, 1e-3 for a
    model of a few million parameters."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled decay of matrices; vectors (norms, biases) never decay."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay rates of the two moments."""
    warmup_steps: int = Field(default=10, ge=0)
    """Optimiser steps over which the learning rate rises linearly from 0."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this global norm."""
    token_budget: int = Field(default=8192, ge=1)
    """Tokens (padding counted) in one forward pass; a longer sequence goes alone. Changes memory and speed, never the
    result. Tuning: as much as fits a GPU; some 1,000 on a CPU, whose caches larger passes leave."""


class RampSettings(Settings):
    """Linear from `start` to `end` over `steps` steps of its objective, `end` afterwards."""

    start: float = Field(default=1.0, ge=0)
    end: float = Field(default=1.0, ge=0)
    steps: int = Field(default=0, ge=0)

    def at(self, step: int) -> float:
        """Value for the objective's step number `step`, counted from 0: with (1, 0, 4), step 1 gives 0.75."""
        if step >= self.steps:
            return self.end
        return self.start + (self.end - self.start) * step / self.steps


class ObjectiveSettings(Settings):
    """What both objectives have."""

    weight: RampSettings = RampSettings()
    """Factor of the objective in the loss. Tuning: matters in mixed steps only, Adam undoes a common factor."""
    lr_scale: RampSettings = RampSettings()
    """Factor of the learning rate in steps that this objective leads (GRPO leads mixed steps)."""
    max_sequences: int = Field(default=0, ge=0)
    """Most sequences per step and worker, oldest first; the rest waits in the objective's queue. 0: all."""


class SFTSettings(ObjectiveSettings):
    """Cross-entropy on the trained tokens."""


class GRPOSettings(ObjectiveSettings):
    """Group-relative policy optimisation; `learners/objectives/grpo.py` lists the published combinations."""

    advantage: Literal["grpo", "dr_grpo", "rloo", "gigpo"] = "grpo"
    """How rewards of a group become advantages (learners/objectives/advantages.py). `gigpo` compares turns: every turn
    must be a sequence of its own, as with windowed prompts."""
    ratio: Literal["token", "sequence"] = "token"
    """Importance ratio of every token, or its geometric mean over the sequence (GSPO)."""
    clip_low: float = Field(default=0.2, gt=0, le=1)
    clip_high: float = Field(default=0.28, gt=0)
    """The ratio earns nothing outside [1 - clip_low, 1 + clip_high]. Tuning: a higher upper end keeps exploration."""
    ratio_cap: float = Field(default=2.0, ge=1)
    """Truncated importance sampling: larger ratios count as this, which bounds what stale tokens can do."""
    icepop_band: tuple[float, float] | None = None
    """Tokens whose ratio leaves this band do not train at all. Tuning: (0.5, 5) for mixture-of-experts models."""
    aggregation: Literal["token", "sequence", "constant"] = "token"
    """What is averaged: tokens, sequences (each the mean of its tokens), or sequences (each the sum of its tokens over
    `constant_length`). Tuning: `sequence` where failures are longer than successes, as in games with a turn limit."""
    constant_length: int = Field(default=1024, ge=1)
    """Divisor of `constant` aggregation, in tokens."""
    kl_weight: float = Field(default=0.0, ge=0)
    """Weight of the k3 divergence from the weights that the run started from. Costs a second forward pass."""
    gamma: float = Field(default=0.95, ge=0, le=1)
    """Discount a turn (`gigpo` only)."""
    step_weight: float = Field(default=1.0, ge=0)
    """Weight of step advantages beside episode advantages (`gigpo` only)."""

    @model_validator(mode="after")
    def _band_contains_one(self) -> GRPOSettings:
        if self.icepop_band and not 0 <= self.icepop_band[0] <= 1 <= self.icepop_band[1]:
            raise ValueError(f"icepop_band must be (low <= 1, high >= 1), got {self.icepop_band}")
        return self


class LearnerSettings(Settings):
    """All that a learner worker needs."""

    policy: PolicySettings
    optimizer: OptimizerSettings = OptimizerSettings()
    sft: SFTSettings = SFTSettings()
    grpo: GRPOSettings = GRPOSettings()
    seed: int = 0
    """Seed of adapter initialisation."""
