"""The parity check: engine and learner must give the same log-probabilities after every publication."""

from __future__ import annotations

from collections.abc import Sequence as Many

import numpy as np
import numpy.typing as npt

from trajectories.errors import RunError

Logprobs = npt.NDArray[np.float32]
Scores = list[Logprobs]
"""Log-probabilities [T] of every token of each sequence, in nats; 0 at the first."""

UNCHANGED = 1e-5
"""Nats by which log-probabilities may move when the weights that an engine holds are published to it again."""


def parity_error(engine: Many[Logprobs], learner: Many[Logprobs], trained: Many[npt.NDArray[np.bool_]]) -> float:
    """Largest absolute difference over all trained tokens, in nats; inf where either is not finite.

    Raises:
        RunError: shapes differ, or there is no trained token to compare.
    """
    differences = []
    for index, (ours, theirs, mask) in enumerate(zip(learner, engine, trained, strict=True)):
        if not ours.shape == theirs.shape == mask.shape:
            raise RunError(f"sequence {index} has {mask.size} tokens; learner scored {ours.size}, engine {theirs.size}")
        differences.append(np.abs(ours[mask] - theirs[mask]))
    joined = np.concatenate(differences) if differences else np.zeros(0, np.float32)
    if not joined.size:
        raise RunError("the parity check has no trained token; give it sequences with responses")
    return float(joined.max()) if np.isfinite(joined).all() else float("inf")


def check_parity(error: float, tolerance: float, version: int) -> None:
    """Raise RunError above the tolerance."""
    if not error <= tolerance:
        raise RunError(
            f"after publishing version {version} engine and learner differ by {error:.2e} nats, tolerance "
            f"{tolerance:.0e}: the engine does not hold the learner's weights, or its precision differs (policy.dtype)"
        )


def check_unchanged(error: float, noise: float) -> None:
    """Raise RunError when a publication of the weights that the engine had loaded moved its log-probabilities.

    Args:
        error: greatest difference in nats between before and after.
        noise: that between two passes before; kernels that add up in another order each time are no fault, so four
            times as much is borne where that is more than `UNCHANGED`.
    """
    limit = max(UNCHANGED, 4 * noise)
    if not error <= limit:
        raise RunError(
            f"publishing unchanged weights moved the engine's log-probabilities by {error:.2e} nats, more than "
            f"{limit:.0e}: this engine cannot take new weights for a layer of this model; take policy.model of another "
            "family, or train adapters (policy.lora.rank=16); or rollout.engine.dtype is not policy.dtype"
        )
