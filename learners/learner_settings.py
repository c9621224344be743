"""Configuration of the learner: policy, optimiser, and the two objectives."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from trajectories.settings import Settings

_Rate = Annotated[float, Field(ge=0, lt=1)]
Betas = tuple[_Rate, _Rate]
"""Decay rates of Adam's two moments, per step."""
TINY = "concerto-tiny"
"""Name of the model that Concerto ships."""


class LoraSettings(Settings):
    """Low-rank adapters on linear layers, through PEFT."""

    rank: int = Field(default=16, ge=1)
    """Rank of every adapter. Tuning: 8 to 32 for RL, 64 and more to absorb much SFT data."""
    alpha: float = Field(default=32.0, gt=0)
    """Adapters are scaled by alpha / rank. Tuning: keep at twice the rank and change the learning rate instead."""
    target_modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Names of the layers that get an adapter. Tuning: all linear layers, as here."""


class PolicySettings(Settings):
    """The model that is trained."""

    model: str
    """Directory or hub name of a Hugging Face causal language model, or concerto-tiny. Tuning: an instruction-tuned one
    with a chat template."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the computation and of published weights. Weights that train stay in float32 beside it. Tuning:
    bfloat16 on a GPU; float32 on most CPUs."""
    lora: LoraSettings | None = None
    """Adapters instead of full weights. Tuning: rank 32 where `concerto plan` says that full weights do not fit, with
    ten times their learning rate or more: learner.lr of 1e-5 to 1e-4."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: a third slower, several times less memory. Tuning: switch it on where
    a pass runs out of memory at a small token_budget."""


class OptimizerSettings(Settings):
    """AdamW, shared by both objectives."""

    lr: float = Field(default=1e-5, gt=0)
    """Learning rate after warm-up. Tuning: 1e-6 to 1e-5 for full weights of a large model, 1e-5 to 1e-4 for LoRA, 1e-3
    for a model of a few million parameters."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled decay of matrices, per unit of learning rate; vectors (norms, biases) never decay. Tuning: 0 for RL; up
    to 0.1 for long SFT."""
    betas: Betas = (0.9, 0.95)
    """Decay rates of the two moments, per step. Tuning: leave them for SFT; grpo.betas is apart."""
    restart_at_stage: bool = True
    """Begin moments, warm-up and schedules anew where another stage begins. Tuning: on, since moments of SFT misjudge
    the gradients of GRPO; off for schedules that run through several stages."""
    warmup_steps: int = Field(default=10, ge=0)
    """Optimiser steps over which the learning rate rises linearly from 0, in each stage with restart_at_stage. Tuning:
    some 5 % of the steps."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this global norm. Tuning: leave it at 1."""
    token_budget: int = Field(default=8192, ge=1)
    """Tokens in one forward pass, padding counted, and once what its sequences begin with alike; a longer sequence goes
    alone. Changes memory and speed, never the result. Tuning: as much as fits a GPU; on a CPU, whose caches larger
    passes leave, some 1,000, or what two or three members of a group take if that is more."""
    reduce_gradients: Literal["step", "pass"] = "step"
    """When several workers add up their gradients. `step`: once, in the last pass, until when each worker keeps a
    gradient of the whole model (4 bytes a weight). `pass`: in every pass, and each keeps a gradient of its own shard
    alone. Changes memory and speed, never the result. Tuning: `step`; `pass` where `concerto plan` says that the model
    does not fit."""


class RampSettings(Settings):
    """Linear from `start` to `end` over `steps` steps of its objective, `end` afterwards."""

    start: float = Field(default=1.0, ge=0)
    """Value at the first step. Tuning: 1, unless the objective fades in."""
    end: float = Field(default=1.0, ge=0)
    """Value from step number `steps` on. Tuning: 0.1 for a learning rate, 0 for an objective that fades out."""
    steps: int = Field(default=0, ge=0)
    """Steps of its objective over which the value moves. Tuning: those of the stage; 0 takes `end` at once."""

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
    """Sequences per step and worker at most, oldest first; the rest waits in the objective's queue. 0: all. Tuning: 0,
    unless steps run out of time."""


class SFTSettings(ObjectiveSettings):
    """Cross-entropy on the trained tokens."""


class GRPOSettings(ObjectiveSettings):
    """Group-relative policy optimisation; `learners/objectives/grpo.py` lists the published combinations."""

    advantage: Literal["grpo", "dr_grpo", "rloo", "gigpo", "anchored", "gae", "graph"] = "grpo"
    """How a group becomes advantages. `grpo`, `dr_grpo` and `rloo` compare episodes
    (learners/objectives/advantages.py); `gigpo` adds to `grpo`, and `anchored`, `gae` and `graph` add to `dr_grpo`,
    what single turns earned (learners/objectives/credit.py). Tuning: `grpo`; `dr_grpo` where success is rare, since it
    does not divide by a spread that is nearly 0; one that credits turns for episodes of many turns."""
    ratio: Literal["token", "sequence"] = "token"
    """Importance ratio of every token, or its geometric mean over the sequence (GSPO). Tuning: `sequence` for
    mixture-of-experts models, with clip ranges near 3e-4."""
    clip_low: float = Field(default=0.2, gt=0, le=1)
    """The ratio earns nothing below 1 - clip_low. Tuning: 0.2; 3e-4 with ratio=sequence."""
    clip_high: float = Field(default=0.28, gt=0)
    """The ratio earns nothing above 1 + clip_high. Tuning: higher than clip_low keeps exploration; 4e-4 with
    ratio=sequence."""
    ratio_cap: float = Field(default=2.0, ge=1)
    """Truncated importance sampling: larger ratios count as this, which bounds what stale tokens can do. Tuning: 2;
    lower where max_staleness is above 1."""
    proximal: Literal["behaviour", "batch"] = "behaviour"
    """What ratios are clipped against. `behaviour`: the policy that sampled. `batch`: the weights before the step; by
    their ratio to the sampling policy, ratio_cap at most, every token is weighed instead, and no token is clipped for
    being stale (decoupled PPO, AReaL). With minibatches or epochs the policy reads its batch once more. Tuning: `batch`
    where max_staleness is above 1."""
    icepop_band: tuple[float, float] | None = None
    """Tokens whose ratio to the policy that sampled leaves this band do not train at all. Tuning: (0.5, 5) for
    mixture-of-experts models."""
    sequence_band: tuple[float, float] | None = None
    """Sequences do not train of which the geometric mean of these ratios leaves this band. Tuning: (0.9, 1.1) where few
    sequences are too old or too unlike what the engine says; `masked_fraction` tells how many tokens that costs."""
    aggregation: Literal["token", "sequence", "constant"] = "token"
    """What is averaged: `token`, all tokens alike; `sequence`, episodes of mean tokens; `constant`, episodes of sums of
    tokens over `constant_length`. Tuning: `sequence` where failures are longer than successes, as in games with a turn
    limit."""
    constant_length: int = Field(default=1024, ge=1)
    """Divisor of `constant` aggregation, in tokens. Tuning: about the tokens that an episode trains."""
    kl_weight: float = Field(default=0.0, ge=0)
    """Weight of the divergence from the weights that the run started from, in nats. Costs a second forward pass.
    Tuning: 0, or up to 0.01 where the policy drifts into nonsense."""
    kl_in: Literal["loss", "reward"] = "loss"
    """Where that divergence counts. `loss`: a term of every token (k3). `reward`: its mean over an episode's trained
    tokens (k1) is subtracted from the episode's scalar reward before rewards are compared, as MAESTRO does; the policy
    then reads its rollouts twice before a step. Tuning: `loss`; `reward` with advantage=dr_grpo, since a division by
    the spread blows up the little that is left to compare in a group whose rewards are all equal."""
    gamma: float = Field(default=0.95, ge=0, le=1)
    """Discount a turn (`gigpo`, `anchored`, `gae`). Tuning: 0.95 for episodes of tens of turns."""
    decay: float = Field(default=0.9, ge=0, le=1)
    """Share of a later surprise that an earlier turn is credited with, lambda (`gae` only). Tuning: lower where a group
    visits the same states often, since the values that stand in are then good."""
    step_weight: float = Field(default=1.0, ge=0)
    """Weight of what single turns earned beside the episode's advantage (`gigpo`, `anchored`, `gae`, `graph`). Tuning:
    1 for `gigpo`; about 0.25 without a division, so that success dominates; 0 leaves the episode's advantage."""
    truncated: Literal["train", "mask"] = "train"
    """What becomes of episodes that a limit on turns or tokens cut off. `train`: as all others. `mask`: they count in
    what their group is compared with, but their tokens do not train (overlong filtering, DAPO); neither do single
    responses that reached rollout.max_response_tokens. Tuning: `train`, since an agent that runs out of turns has
    failed; `mask` where a limit is shorter than the tasks need."""
    betas: Betas | None = None
    """Decay rates of Adam's moments in steps that GRPO leads; null: those of the learner. Tuning: (0.9, 0.999) is usual
    for RL: gradients are scaled by what some 1,000 steps saw instead of 20, so that one large gradient hardly shortens
    the steps after it, but itself moves a weight by up to 3.2 learning rates instead of 0.45. They make no signal of
    noise: pure noise gives an update_signal of 0.229 with them and of 0.226 with (0.9, 0.95). Larger batches raise the
    signal; a first rate of 0.95 lowers what noise moves to 0.160."""
    minibatches: int = Field(default=1, ge=1)
    """Parts of whole groups into which the batch of a step is cut, each an optimiser step of its own; demonstrations of
    a mixed step are spread over them. Tuning: 1; 2 to 4 where steps are few and batches large, since more steps follow
    from the same episodes."""
    epochs: int = Field(default=1, ge=1)
    """Times that a step walks through its batch, each in a new order. Ratios stay against the policy that sampled, so
    clipping stops what has moved enough. Tuning: 1; 2 to 4 where rollouts cost more than training, while clip_fraction
    stays below some 0.2."""
    entropy_weight: float = Field(default=0.0, ge=0)
    """Weight of the bonus for the entropy of the policy's distribution at trained tokens, in the objective per nat.
    Tuning: 0, or 0.001 to 0.01 where grpo/entropy falls towards 0 while success does not rise."""
    entropy_floor: float = Field(default=0.0, ge=0)
    """Mean entropy of a step, in nats, below which the run warns that the policy no longer explores; 0: never. Tuning:
    a tenth of grpo/entropy in the first steps."""
    invalid_penalty: float = Field(default=0.0, ge=0)
    """Subtracted from the advantage of a turn whose action did nothing, against the group's mean. Tuning: 0, or 0.1
    where a group's failures are full of such actions."""

    @property
    def folds_kl(self) -> bool:
        """The divergence is part of the rewards."""
        return self.kl_weight > 0 and self.kl_in == "reward"

    @model_validator(mode="after")
    def _bands_contain_one(self) -> GRPOSettings:
        for name in ("icepop_band", "sequence_band"):
            if (band := getattr(self, name)) and not 0 <= band[0] <= 1 <= band[1]:
                raise ValueError(f"{name} must be (low <= 1, high >= 1), got {band}")
        return self


class LearnerSettings(Settings):
    """All that a learner worker needs."""

    policy: PolicySettings
    optimizer: OptimizerSettings = OptimizerSettings()
    sft: SFTSettings = SFTSettings()
    grpo: GRPOSettings = GRPOSettings()
    seed: int = 0
    """Seed of adapter initialisation."""
