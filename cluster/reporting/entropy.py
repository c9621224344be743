"""Says when a policy stops exploring."""

from __future__ import annotations

from collections.abc import Mapping


class EntropyWatch:
    """Finds the steps in which the mean entropy of the policy falls below a floor.

    Args:
        floor: nats; 0 never warns.
    """

    def __init__(self, floor: float) -> None:
        self._floor, self._low = floor, False

    def observe(self, metrics: Mapping[str, float]) -> str | None:
        """What to say of a step with these metrics: a line where entropy falls below the floor, once until it rises
        again. Steps that train nothing with GRPO say nothing about it."""
        entropy = metrics.get("grpo/entropy")
        if entropy is None:
            return None
        fell, self._low = entropy < self._floor and not self._low, entropy < self._floor
        if not fell:
            return None
        return (
            f"the policy's entropy has fallen to {entropy:.3g} nats, below grpo.entropy_floor={self._floor:g}: it "
            "hardly explores any more; raise grpo.entropy_weight, grpo.clip_high or schedule.temperature"
        )
