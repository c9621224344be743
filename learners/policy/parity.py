"""The parity check: engine and learner must give the same log-probabilities after every publication."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Many
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trajectories.errors import RunError

Logprobs = npt.NDArray[np.float32]
Scores = list[Logprobs]
"""Log-probabilities [T] of every token of each sequence, in nats; 0 at the first."""

UNCHANGED = 1e-5
"""Nats by which log-probabilities may move when the weights that an engine holds are published to it again."""
ROUNDING = {"float32": 1e-3, "bfloat16": 0.05}
"""Nats that the 99th percentile may differ by in each precision where no other tolerance is set."""
NOISE_FACTOR = 4.0
"""Times the first publication's 99th percentile that later ones may reach in bfloat16: how much single tokens differ
there depends on the model, and hardly on how long it has been trained."""


@dataclass(frozen=True, slots=True)
class Parity:
    """How far engine and learner differ over all trained tokens, in nats: on average, at the 99th percentile, and where
    they differ most. inf where a log-probability is not finite."""

    mean: float
    p99: float
    largest: float

    @classmethod
    def of(cls, engine: Many[Logprobs], learner: Many[Logprobs], trained: Many[npt.NDArray[np.bool_]]) -> Parity:
        """
        Raises:
            RunError: shapes differ, or there is no trained token to compare.
        """
        differences = []
        for index, (ours, theirs, mask) in enumerate(zip(learner, engine, trained, strict=True)):
            if not ours.shape == theirs.shape == mask.shape:
                raise RunError(
                    f"sequence {index} has {mask.size} tokens; learner scored {ours.size}, engine {theirs.size}"
                )
            differences.append(np.abs(ours[mask] - theirs[mask]))
        joined = np.concatenate(differences) if differences else np.zeros(0, np.float32)
        if not joined.size:
            raise RunError("the parity check has no trained token; give it sequences with responses")
        if not np.isfinite(joined).all():
            return cls(float("inf"), float("inf"), float("inf"))
        return cls(float(joined.mean()), float(np.percentile(joined, 99)), float(joined.max()))


class ParityWatch:
    """What differences are borne, and what becomes of larger ones: a run in float32, or with a tolerance of its own,
    ends; one in bfloat16 is told.

    Args:
        tolerance: of the 99th percentile, in nats; None: what the precision makes of it.
        dtype: precision of the computation.
        tell: is told of a difference that is not borne, but ends nothing.
    """

    def __init__(self, tolerance: float | None, dtype: str, tell: Callable[[str], None]) -> None:
        self._ends = tolerance is not None or dtype == "float32"
        self._adapts = tolerance is None and dtype != "float32"
        self._tell, self._told = tell, False
        self.tolerance = ROUNDING[dtype] if tolerance is None else tolerance

    def check(self, found: Parity, version: int) -> dict[str, float]:
        """The metrics of a publication. Raises RunError above a tolerance that ends the run."""
        if self._adapts and np.isfinite(found.p99):
            self.tolerance, self._adapts = max(self.tolerance, NOISE_FACTOR * found.p99), False
        if not found.p99 <= self.tolerance:
            said = (
                f"after publishing version {version} the log-probabilities of engine and learner differ by "
                f"{found.p99:.2e} nats at the 99th percentile of the parity sequences' tokens (mean {found.mean:.2e}, "
                f"most {found.largest:.2e}), tolerance {self.tolerance:.0e}: the engine does not hold the learner's "
                "weights, or computes in another precision (policy.dtype, rollout.engine.dtype)"
            )
            if self._ends or not np.isfinite(found.p99):
                raise RunError(said)
            if not self._told:
                self._told = True
                self._tell(f"{said}; the run goes on, set schedule.parity_tolerance to have it end")
        used = found.p99 / self.tolerance
        return {"parity_mean": found.mean, "parity_p99": found.p99, "parity_error": found.largest, "parity_used": used}


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
