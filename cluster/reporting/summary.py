"""What the runs of a comparison came to: success with intervals, seconds by phase, tokens, speed-up."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict
from scipy import stats

from cluster.reporting.evaluation import Rate, wilson_rate
from cluster.reporting.evaluation_tables import run_evaluations
from cluster.reporting.metrics import read_metrics
from trajectories.errors import UserError

PHASES = ("probe", "sft", "rl", "evaluation")


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RunSummary(Frozen):
    """One run.

    Attributes:
        success: success in the last evaluation, by panel.
        seconds: by phase; engines' and workers' start is in none of them.
        tokens: trained by each objective.
    """

    success: dict[str, Rate]
    panel_hashes: dict[str, str]
    seconds: dict[str, float]
    tokens: dict[str, float]

    @property
    def training_seconds(self) -> float:
        """Everything but evaluation."""
        return sum(seconds for phase, seconds in self.seconds.items() if phase != "evaluation")


class ArmSummary(Frozen):
    """All seeds of one arm on one panel.

    Attributes:
        pooled: wins and tasks of all seeds together, with their Wilson interval: it covers the choice of games only.
        mean, low, high: mean success over seeds and its 95 % t-interval; with one seed, low and high are NaN.
        least, most: over seeds.
        speedup: training seconds of the reference arm over those of this one.
    """

    arm: str
    panel: str
    pooled: Rate
    mean: float
    low: float
    high: float
    least: float
    most: float
    seconds: dict[str, float]
    tokens: dict[str, float]
    speedup: float | None


class Comparison(Frozen):
    """What `concerto compare` writes as `comparison.json`."""

    seeds: tuple[int, ...]
    reference: str | None
    arms: tuple[ArmSummary, ...]
    runs: dict[str, RunSummary]


def summarise_run(run_dir: Path) -> RunSummary:
    """The summary of a finished run, from its metrics and evaluations."""
    records, evaluations = read_metrics(run_dir), run_evaluations(run_dir)
    probe = sum(record.get("routing_s", record.get("probe_s", 0.0)) for record in records)
    by_stage = {
        stage: sum(record["step_s"] for record in records if record["stage"] == stage)
        for stage in ("sft", "mixed", "grpo")
    }
    online_probe = sum(record.get("probe_s", 0.0) for record in records if record["stage"] == "mixed")
    last = list(evaluations.values())[-1] if evaluations else ()
    return RunSummary(
        success={result.panel: result.success for result in last},
        panel_hashes={result.panel: result.panel_hash for result in last},
        seconds={
            "probe": probe,
            "sft": by_stage["sft"],
            "rl": by_stage["grpo"] + by_stage["mixed"] - online_probe,
            "evaluation": sum(result.seconds for results in evaluations.values() for result in results),
        },
        tokens={name: sum(record.get(f"{name}/tokens", 0.0) for record in records) for name in ("sft", "grpo")},
    )


def compare_runs(
    runs: Mapping[str, RunSummary], arms: Sequence[str], seeds: Sequence[int], reference: str | None
) -> Comparison:
    """Sum up runs that are named `<arm>-<seed>`. Raises UserError where they did not play the same panels."""
    (first, one), *others = runs.items()
    for name, run in others:
        if run.panel_hashes != one.panel_hashes:
            raise UserError(f"{name} and {first} were evaluated on different panels: train one of them again.")
    panels = list(one.success)
    base = [runs[f"{reference}-{seed}"] for seed in seeds] if reference else None
    summaries = tuple(
        _summarise_arm(arm, panel, [runs[f"{arm}-{seed}"] for seed in seeds], base) for panel in panels for arm in arms
    )
    return Comparison(seeds=tuple(seeds), reference=reference, arms=summaries, runs=dict(runs))


def t_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the mean by Student's t; NaN for a single value.

    t_interval([0.4, 0.5, 0.6]) is (0.252, 0.748): t = 4.303 with two degrees of freedom.
    """
    if len(values) < 2:
        return math.nan, math.nan
    half = float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.fmean(values)
    return mean - half, mean + half


def _summarise_arm(arm: str, panel: str, runs: Sequence[RunSummary], base: Sequence[RunSummary] | None) -> ArmSummary:
    rates = [run.success[panel] for run in runs]
    successes = [rate.rate for rate in rates]
    low, high = t_interval(successes)
    seconds = {phase: statistics.fmean(run.seconds[phase] for run in runs) for phase in PHASES}
    speedup = None
    if base is not None:
        speedup = sum(run.training_seconds for run in base) / sum(run.training_seconds for run in runs)
    return ArmSummary(
        arm=arm,
        panel=panel,
        pooled=wilson_rate(sum(rate.wins for rate in rates), sum(rate.tasks for rate in rates)),
        mean=statistics.fmean(successes),
        low=low,
        high=high,
        least=min(successes),
        most=max(successes),
        seconds=seconds,
        tokens={name: statistics.fmean(run.tokens[name] for run in runs) for name in runs[0].tokens},
        speedup=speedup,
    )


def markdown(comparison: Comparison) -> str:
    """One table a panel."""
    lines = []
    for panel in dict.fromkeys(arm.panel for arm in comparison.arms):
        digest = next(run.panel_hashes[panel] for run in comparison.runs.values())
        speedup = f"speed-up against {comparison.reference}" if comparison.reference else "speed-up"
        lines += [
            f"Panel `{panel}` ({digest[:8]}), seeds {', '.join(map(str, comparison.seeds))}; seconds and tokens are "
            "means over seeds.",
            "",
            "| arm | success, mean over seeds [least, most] | 95 % t-interval | all seeds together [Wilson 95 %] "
            f"| probe s | SFT s | RL s | evaluation s | SFT tokens | GRPO tokens | {speedup} |",
            "|---|---|---|---|---|---|---|---|---|---|---|",
            *(_row(arm) for arm in comparison.arms if arm.panel == panel),
            "",
        ]
    return "\n".join(lines)


def _row(arm: ArmSummary) -> str:
    interval = "one seed" if math.isnan(arm.low) else f"[{arm.low:.3f}, {arm.high:.3f}]"
    pooled = f"{arm.pooled.wins}/{arm.pooled.tasks}, {arm.pooled}"
    seconds = " | ".join(f"{arm.seconds[phase]:.1f}" for phase in PHASES)
    tokens = " | ".join(f"{arm.tokens[name]:,.0f}" for name in ("sft", "grpo"))
    speedup = "" if arm.speedup is None else f"{arm.speedup:.2f}"
    success = f"{arm.mean:.3f} [{arm.least:.3f}, {arm.most:.3f}]"
    return f"| {arm.arm} | {success} | {interval} | {pooled} | {seconds} | {tokens} | {speedup} |"
