"""The `router` section of a run's configuration. Imports no torch: a configuration is checked in no time."""

from __future__ import annotations

import os
from typing import Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from router.probing import Probing, Sample
from trajectories.settings import Settings

PolicyName = Literal[
    "none",
    "median_split",
    "inverse",
    "random",
    "magnitude",
    "loss",
    "pass_rate",
    "chord",
    "chord_scheduled",
    "all_sft",
    "all_grpo",
    "sequential",
]
"""Keys of `router.arbitration.POLICIES`, and `none`."""
Metric = Literal["gini", "kurtosis", "cv", "hoyer", "entropy", "top_share", "gini_per_entry"]
"""Keys of `router.geometry.CONCENTRATION`, and the Gini of norms divided by the root of their matrix's entries."""
Thresholds = Literal["environment", "corpus"]
"""What has a threshold of its own: each environment, or all of the corpus."""

NEED_PROBE = frozenset({"median_split", "inverse", "magnitude", "loss"})
"""Policies that need the probe."""

MIXES = frozenset({"chord", "chord_scheduled"})
"""Policies that weigh both objectives within one step, so that they mean nothing in stages."""


class RouterSettings(Settings):
    """Which trajectories are imitated, and on which tasks the policy explores."""

    policy: PolicyName = "none"
    """`median_split` is PRISM; the others are its controls. `none` trains on everything. Tuning: `median_split`, and
    `random` beside it as the control."""
    mode: Literal["staged", "online"] = "staged"
    """`staged` routes the corpus once, by the base model, before the first stage; `online` routes every group of the
    mixed stage by the weights of that step. Tuning: `staged` is the published order."""
    routes: str | None = None
    """File of `concerto route` that tells every trajectory's route, in place of a probe by this run. Tuning: share one
    among the arms of a comparison."""
    metric: Metric = "gini"
    """Concentration statistic of `median_split` and `inverse`; `gini_per_entry` is that of norm / √entries, without the
    bias of the matrices' shapes. Tuning: `gini` is published; compare by `--set router.metric=…`."""
    share: float = Field(default=0.5, gt=0, le=1)
    """Share of the trajectories that a split sends to SFT, ties included; none at all is `all_grpo`. Tuning: 0.5 is the
    published median split; sweep 0.25, 0.5 and 0.75 as arms of a comparison (benchmarks/prism-share.yaml)."""
    thresholds: Thresholds = "environment"
    """Whether a split takes a threshold for each environment, or one for all of the corpus. With one for all, the
    environment whose gradients are the more even may go to SFT as a whole. Tuning: `environment`; `corpus` where an
    environment has a few demonstrations only."""
    window: int = Field(default=512, ge=2)
    """Latest scores of which an online split takes its quantile, for each environment and each kind of reference (an
    expert's demonstration, an own success). Tuning: more than window_steps bring."""
    window_steps: PositiveInt = 10
    """Latest steps whose scores such a window holds, the present one included: other weights gave the older ones.
    Tuning: until a window holds some 30 scores; 1 compares scores of the same weights only."""
    window_fill: PositiveInt = 8
    """Scores that a window needs before it splits; until then its groups are explored. Tuning: some two steps' groups;
    1 imitates the first that comes."""
    gate: float = Field(default=0.0, ge=0, le=1)
    """`pass_rate`: success rate of a task above which it is explored. Tuning: 0 imitates only what never succeeds."""
    gate_episodes: PositiveInt = 8
    """`pass_rate`, staged: episodes of every task of the corpus that the base model plays to find its rate. Tuning: the
    rate is known to within 1 / episodes."""
    mu: float = Field(default=0.1, ge=0, le=1)
    """`chord`: weight of SFT beside 1 - mu of GRPO. Tuning: 0.1; more where demonstrations are few and good."""
    peak: float = Field(default=0.5, ge=0, le=1)
    """`chord_scheduled`: greatest weight of SFT. Tuning: 0.5, so that neither objective drowns the other."""
    valley: float = Field(default=0.02, ge=0, le=1)
    """`chord_scheduled`: weight of SFT at the end. Tuning: near 0."""
    warmup_steps: int = Field(default=200, ge=0)
    """`chord_scheduled`: optimiser steps from 0 to the peak. Tuning: a third of the mixed steps."""
    decay_steps: int = Field(default=400, ge=0)
    """`chord_scheduled`: optimiser steps from the peak to the valley. Tuning: the other two thirds."""
    token_budget: PositiveInt = 1024
    """Tokens (padding counted) in one pass of the probe. Changes memory and speed only. Tuning: as much as fits on a
    GPU; some 1,000 on a CPU."""
    precision: Literal["fast", "policy"] = "fast"
    """What the probe computes in. `fast`: bfloat16 where the device multiplies it natively. `policy`: as the policy.
    Tuning: `fast`; `policy` where scores are to be compared with those of another machine."""
    sample_layers: PositiveInt | None = None
    """Decoder layers that the probe measures, counted from the last, where its backward pass begins; null: all. Tuning:
    null; half of them save two fifths of a probe, and order a corpus otherwise (docs/results/prism-probe.md)."""
    sketch: int = Field(default=0, ge=0)
    """Columns of a random matrix through which the probe sees each gradient; 0 sees it whole. Tuning: 0; 32 where the
    probe takes too long, which saves a sixth of it and hardly changes the order."""
    cache: str | None = None
    """Directory in which staged runs share what was probed, by weights and trajectory; null: the run keeps its own.
    Tuning: one directory for all arms and seeds of a comparison, which then probe the base model once."""

    @property
    def active(self) -> bool:
        """Anything is routed."""
        return self.policy != "none"

    @property
    def online(self) -> bool:
        """Groups are routed while they are trained."""
        return self.active and self.mode == "online"

    @property
    def probes(self) -> bool:
        """The policy needs gradients."""
        return self.policy in NEED_PROBE

    def probing(self, alone: bool) -> Probing:
        """How the learner workers probe. `alone`: nothing else works on their machines meanwhile."""
        return Probing(self.token_budget, Sample(self.sample_layers, self.sketch), self.precision == "fast", alone)

    @field_validator("routes", "cache")
    @classmethod
    def _at_home(cls, file: str | None) -> str | None:
        return os.path.expanduser(file) if file else file

    @model_validator(mode="after")
    def _a_window_can_be_filled(self) -> RouterSettings:
        if self.window_fill > self.window:
            raise ValueError(f"window_fill {self.window_fill} is more than a window of {self.window} scores can hold")
        return self

    @model_validator(mode="after")
    def _valley_below_peak(self) -> RouterSettings:
        if self.valley > self.peak:
            raise ValueError(f"valley {self.valley} must not lie above peak {self.peak}")
        return self
