"""The staleness gate: how many groups may be started now, so that no learner step trains on data that is too old.

With `version` the number of weight versions published so far, `batch` the groups one learner step takes, and all counts
in groups:

    capacity = min(concurrency - running,
                   (max_staleness + version + 1) * batch - (accepted + running),
                   total - (accepted + running))

The first term is what the engines can hold. The second is AReaL's bound: whatever is accepted or running now is trained
before version `max_staleness + version + 1` is reached. The third never starts a group that the run will not train, so
that the tasks trained do not depend on which group finished first.

At all times `submitted == accepted + filtered + skipped + running`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class StalenessGate:
    """Counts groups from submission to training and says how many more may start.

    Attributes:
        concurrency: groups that the rollout actors run at once.
        max_staleness: greatest difference between the learner's version and the version a group started with.
        batch: groups per learner step.
        total: groups that the whole stage will train.
        submitted, accepted, filtered, skipped, running: counts since the stage began; accepted includes those already
            trained.
    """

    concurrency: int
    max_staleness: int
    batch: int
    total: int
    submitted: int = 0
    accepted: int = 0
    filtered: int = 0
    skipped: int = 0
    running: int = 0

    def capacity(self, version: int) -> int:
        """Groups that may start now; never negative. `version` counts the learner steps of this stage."""
        held = self.accepted + self.running
        return max(
            0,
            min(
                self.concurrency - self.running,
                (self.max_staleness + version + 1) * self.batch - held,
                self.total - held,
            ),
        )

    def submit(self) -> None:
        self.submitted += 1
        self.running += 1
        self.check()

    def accept(self) -> None:
        self.running -= 1
        self.accepted += 1
        self.check()

    def filter(self) -> None:
        """A running group ended with too few members, or is put back to be issued again."""
        self.running -= 1
        self.filtered += 1
        self.check()

    def skip(self) -> None:
        """A running group ended whole, but teaches nothing; another may start in its place."""
        self.running -= 1
        self.skipped += 1
        self.check()

    def drop_stale(self) -> None:
        """A group accepted before is too old to be trained."""
        self.accepted -= 1
        self.filtered += 1
        self.check()

    def check(self) -> None:
        """Raises AssertionError when a group was lost or counted twice."""
        counts = (self.accepted, self.filtered, self.skipped, self.running)
        assert self.submitted == sum(counts), f"groups do not add up: {self}"
        assert min(counts) >= 0, f"negative count: {self}"


def is_stale(oldest_version: int, version: int, max_staleness: int) -> bool:
    """True when data whose oldest token was sampled by `oldest_version` must not train the policy at `version`."""
    return version - oldest_version > max_staleness
