"""Configuration of the rewards: which channels there are, and how they become one advantage per rollout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from trajectories.settings import Address, Settings

LengthShape = Literal["short", "target", "overlong"]
"""How a response's length becomes the channel `length` (`learners.rewards.channels.length`)."""


class ConductorSettings(Settings):
    """The network that weighs the channels, and how it learns (arXiv 2601.07208)."""

    meta_signal: Literal["scalarised", "outcome"] = "scalarised"
    """What a sampled weighting earns. `scalarised`: the rollout's advantage under these very reward weights, as
    published; it serves itself, since they also make what they are judged by. `outcome`: that advantage times the
    advantage of the channel `reward.outcome`, which is positive where they push the same way as the outcome. Tuning:
    `outcome` where the Conductor favours a channel that does not help success."""
    baseline: Literal["leave_one_out", "none"] = "leave_one_out"
    """`outcome`: what is subtracted from it. `leave_one_out`: the mean of the other rollouts of the group. `none`:
    nothing, so that wherever the channels help at all every drawn one is reinforced, and at high rates chance decides.
    Tuning: `leave_one_out`; `none` is there to be compared with."""
    weight_map: Literal["emphasis", "onehot", "uniform_boost"] = "emphasis"
    """How a sampled channel becomes reward weights (learners/rewards/maths.py). Tuning: `emphasis`; `onehot` explores
    most."""
    beta: float = Field(default=0.5, ge=0, le=1)
    """Weight that the sampled channel gets on top (`emphasis`, `uniform_boost`). Tuning: higher explores more."""
    context_layer: Literal["last", "first"] = "last"
    """Decoder layer whose states the Conductor reads; the last one's are normalised by the model. Tuning: `last`, as
    published; `first` as an ablation, which knows the words and little of what they mean."""
    context_tokens: Literal["last", "mean"] = "last"
    """Of which tokens: the last one of a rollout, or the mean over prompt and response, of the last turn with windowed
    prompts. Tuning: `last`, as published; `mean` where rollouts end alike."""
    context_pass: Literal["training", "own"] = "training"
    """Where the states are read. `training`: in the pass that trains, which then holds the activations of a whole group
    at once. `own`: in a pass without gradients before it, over the sequences in which episodes end. With
    grpo.proximal=batch and several minibatches a batch is read before it trains anyway, and they come from there.
    Tuning: `training` costs no time; `own` where `concerto plan` finds no room for a group."""
    update_every: int = Field(default=3, ge=1)
    """GRPO steps (M) whose rollouts are buffered for one update. Tuning: more makes updates steadier and rarer."""
    lr: float = Field(default=5e-5, gt=0)
    """AdamW's learning rate. Tuning: logits move by about lr times the hidden size per update, so a policy of a tenth
    of the hidden size needs ten times the rate."""
    entropy_weight: float = Field(default=1e-3, ge=0)
    """Weight of the entropy bonus (lambda). Tuning: raise it when the alarm of a single channel shows in the log."""


class JudgeSettings(Settings):
    """A chat model that grades answers to questions, from 0 to 1 (docs/rewards.md). Its key is OPENAI_API_KEY."""

    base_url: Address | None = None
    """OpenAI-compatible endpoint of the judge; null: there is none. Tuning: a server of its own, or the policy would
    wait for it."""
    model: str | None = None
    """Name of the judge's model, as the endpoint knows it. Tuning: a larger one than the policy; for the evaluation
    another one than for the reward."""
    votes: PositiveInt = 3
    """Grades of each answer. Tuning: 3, as published; 1 costs a third."""
    combine: Literal["median", "mean"] = "median"
    """How they become one. Tuning: `median`, which one strange vote does not move; `mean` tells more answers apart."""
    concurrency: PositiveInt = 16
    """Requests that are under way at once. Tuning: as many as the server takes without a queue."""
    timeout_s: PositiveFloat = 120.0
    """Seconds that all votes of a learner step, or of a group in an evaluation, may take together. What has no vote
    by then gets the mean of its group, 0.5 where that has none. Tuning: twice what `judge_s` shows."""

    @property
    def active(self) -> bool:
        """There is a judge."""
        return self.base_url is not None

    @model_validator(mode="after")
    def _an_endpoint_has_a_model(self) -> JudgeSettings:
        if (self.base_url is None) != (self.model is None):
            raise ValueError("base_url and model of a judge belong together: set both, or neither")
        return self


class RewardSettings(Settings):
    """The section `reward` of a run."""

    scalariser: Literal["single", "uniform", "static", "random", "gdpo", "conductor"] = "single"
    """`single`: the channel `outcome` alone, plain GRPO; with `reference` NOVER, with `entropy` EM-GRPO. `uniform`: all
    channels alike. `static`: the given `weights`. `random`: new reward weights for every rollout. `gdpo`: each channel
    normalised on its own, with `weights` (default: all alike). `conductor`: reward weights that are learned while
    training runs. Tuning: `single` is the baseline that the others must beat."""
    channels: tuple[str, ...] = ()
    """Reward channels to use; empty: all that the environment gives. Tuning: leave out one that does not tell episodes
    apart."""
    outcome: str = "success"
    """What `single` trains on, any channel that the run has; and what `meta_signal=outcome` judges by, a verifiable one
    that the environments give. Tuning: a graded one, such as WebShop's score, tells more than success as long as
    success is rare."""
    weights: Mapping[str, float] = Field(default_factory=dict)
    """Weight by channel (`static`, `gdpo`); a channel that is not named has none. Tuning: the ratios alone matter."""
    normalisation: Literal["rank", "z_score", "none"] = "rank"
    """What is done to a channel within its group before it is weighed (`uniform`, `static`, `random`). The Conductor
    needs ranks: without them it collapses onto one channel (docs/rewards.md). Tuning: `rank`, unless the sizes of a
    graded channel mean something."""
    constant_limit: int = Field(default=1024, ge=2)
    """Episodes in which a channel may have one and the same value before the run ends. Tuning: raise it where success
    comes late."""
    entropy_sign: Literal[-1, 1] = -1
    """The channel `entropy`: -1 rewards responses that the policy is certain of, as EM-GRPO does, 1 uncertain ones.
    Tuning: -1 where answers are right or wrong; 1 where they should be varied, as in creative writing."""
    length_shape: LengthShape = "short"
    """The channel `length`, of the mean response as a share of rollout.max_response_tokens. `short`: the shorter the
    better. `target`: best at `length_target`, worse on both sides. `overlong`: as good as any up to `length_target`,
    then falling to 0 at the limit, as in DAPO. Tuning: `target` where the policy answers with less and less."""
    length_target: float = Field(default=0.5, gt=0, lt=1)
    """That length, as a share of the limit. Tuning: the length of good answers (`target`), or what most answers stay
    below (`overlong`)."""
    preference_model: str | None = None
    """Directory or hub name of a sequence-classification model that gives the channel `preference`; none: no such
    channel. Where it runs say placement.preference_*. Tuning: one of the policy's size or smaller scores a batch in the
    time of a forward pass."""
    preference_batch: PositiveInt = 8
    """Pairs of question and answer that it reads in one pass. Tuning: 8 on a CPU; on a GPU as many as its memory
    holds."""
    judge: JudgeSettings = JudgeSettings()
    conductor: ConductorSettings = ConductorSettings()

    def compared(self, channels: Sequence[str]) -> tuple[str, ...]:
        """Those of the run's reward channels that advantages are made of: where no episodes of a group differ in one of
        them, comparing the episodes teaches nothing."""
        if self.scalariser == "single":
            return (self.outcome,)
        if self.scalariser in ("static", "gdpo") and self.weights:
            return tuple(name for name in channels if self.weights.get(name))
        return tuple(channels)

    @model_validator(mode="after")
    def _weights_fit(self) -> RewardSettings:
        if self.scalariser == "static" and not self.weights:
            raise ValueError("scalariser 'static' needs weights, such as reward.weights.success=1")
        if self.weights and not any(self.weights.values()):
            raise ValueError("weights are all 0: give at least one channel a weight")
        if unknown := [name for name in self.weights if self.channels and name not in self.channels]:
            raise ValueError(f"weights name {unknown[0]!r}, which is not among channels {', '.join(self.channels)}")
        if self.scalariser == "random" and self.normalisation == "none":
            raise ValueError(
                "scalariser 'random' needs normalisation rank or z_score: weights that differ by rollout turn the mean "
                "of a channel into noise"
            )
        if self.scalariser == "conductor" and self.normalisation != "rank":
            raise ValueError("scalariser 'conductor' needs normalisation rank: without it one channel takes all weight")
        return self
