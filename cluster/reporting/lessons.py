"""What a run has learned from, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def lessons(records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """One line a stage, from the records of `RUN/metrics.jsonl`: tokens, and episodes, truncated ones, and groups that
    had something to compare where it played.

    Ten GRPO steps on 2 groups of 4, of which half were informative, give "grpo learned from 5,120 tokens in 10 steps:
    80 episodes, 20% of them truncated, in 20 groups, 10 of them informative".
    """
    steps = [record for record in records if "trained_tokens" in record]
    for stage in dict.fromkeys(record["stage"] for record in steps):
        yield _lesson(stage, [record for record in steps if record["stage"] == stage])


def costs(records: Sequence[Mapping[str, Any]]) -> str | None:
    """One line with the seconds of routing, of each stage and of checkpoints between steps, and their shares, without
    evaluations; None before the first step.

    A probe of 10 s, SFT of 30 s and GRPO of 60 s give "cost: probe 10.0 s (10%), sft 30.0 s (30%), grpo 60.0 s (60%)".
    What a mixed step probes counts with the probe. What else routing takes, as playing for pass rates does, is "other
    routing".
    """
    seconds: dict[str, float] = {"probe": 0.0, "other routing": 0.0}
    for record in records:
        probed = record.get("probe_s", 0.0)
        seconds["probe"] += probed
        if "step_s" in record:
            seconds[record["stage"]] = seconds.get(record["stage"], 0.0) + record["step_s"] - probed
        elif "routing_s" in record:
            seconds["other routing"] += record["routing_s"] - probed
    seconds["checkpoints"] = sum(record.get("checkpoint_s", 0.0) for record in records)
    total = sum(seconds.values())
    parts = [f"{name} {spent:,.1f} s ({spent / total:.0%})" for name, spent in seconds.items() if spent >= 0.05]
    return f"cost: {', '.join(parts)}" if parts else None


def _lesson(stage: str, steps: Sequence[Mapping[str, Any]]) -> str:
    idle = sum(not record["trained_tokens"] for record in steps)
    tokens = sum(record["trained_tokens"] for record in steps)
    line = f"{stage} learned from {tokens:,.0f} tokens in {len(steps)} steps"
    if idle:
        line += f", {idle} of which trained nothing"
    played = [record for record in steps if "episodes" in record]
    episodes = sum(record["episodes"] for record in played)
    if episodes:
        truncated = sum(record["truncated"] * record["episodes"] for record in played)
        informative = sum(record["informative_groups"] * record["groups"] for record in played)
        line += (
            f": {episodes:,.0f} episodes, {truncated / episodes:.0%} of them truncated, in "
            f"{sum(record['groups'] for record in played):,.0f} groups, {informative:,.0f} of them informative"
        )
    return line
