"""Finds learner steps that train nothing, and says why."""

from __future__ import annotations

from collections.abc import Mapping

from trajectories.errors import RunError

MOST = 0.5
"""Share of the episodes from which on the limit that cut them off is named as the reason."""


class IdleWatch:
    """Counts steps in a row without a trained token.

    Args:
        limit: so many of them end the run.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._idle, self._told = limit, 0, False

    def observe(self, metrics: Mapping[str, float]) -> str | None:
        """A line at the first idle step of all, else None.

        Raises:
            RunError: this is idle step number `limit` in a row.
        """
        if metrics["trained_tokens"]:
            self._idle = 0
            return None
        self._idle += 1
        if self._idle == self._limit:
            raise RunError(f"no token was trained in {self._limit} steps in a row (schedule.max_idle): {why(metrics)}")
        first, self._told = not self._told, True
        return f"no token was trained: {why(metrics)}" if first else None


def why(metrics: Mapping[str, float]) -> str:
    """What kept a step with these metrics from training, with its share, and the settings that help."""
    if "informative_groups" not in metrics:
        return "no demonstration has a weight; look at sft.weight"
    if (length := metrics["length_limited"]) >= MOST:
        return (
            f"{length:.0%} of its episodes did not fit the model's context; raise rollout.engine.max_model_len, or "
            "take rollout.prompt.mode=windowed"
        )
    if (turns := metrics["truncated"] - length) >= MOST:
        return (
            f"{turns:.0%} of its episodes ran out of turns; raise rollout.max_turns, or let the policy imitate more "
            "first (schedule.sft_steps)"
        )
    if not metrics["informative_groups"]:
        return (
            f"{metrics['success']:.0%} of its episodes succeeded, and in none of its groups did the members differ; "
            "raise schedule.group_size or schedule.temperature, or take tasks that are neither too hard nor too easy"
        )
    return (
        f"{metrics['informative_groups']:.0%} of its groups have something to compare, but no weight; look at "
        "grpo.weight, grpo.truncated and router.policy"
    )
