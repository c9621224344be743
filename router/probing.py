"""How a probe goes about its work. Imports no torch: a configuration makes one of these in no time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sample:
    """What of a gradient is measured, for a probe that costs less than an exact one.

    Attributes:
        layers: the last so many decoder layers; the backward pass ends there. None: all.
        sketch: columns of a random matrix by which every gradient is multiplied before its norm is taken; 0: none. The
            squared norm is right in the mean, its relative spread at most sqrt(2 / sketch). All trajectories share the
            random matrices, so the errors hardly change their order.
    """

    layers: int | None = None
    sketch: int = 0


EXACT = Sample()


@dataclass(frozen=True, slots=True)
class Probing:
    """How learner workers probe.

    Attributes:
        token_budget: tokens (padding counted) of one pass.
        fast: compute in bfloat16 where the device multiplies it natively, whatever the policy computes in.
        alone: nothing else works on the machine, so that the probe may take all cores.
    """

    token_budget: int = 8192
    sample: Sample = EXACT
    fast: bool = False
    alone: bool = False
