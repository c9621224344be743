"""What the runs of a comparison came to: success with intervals, seconds by phase, tokens, speed-up."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from cluster.reporting.estimators import Frozen, Rate, t_interval, wilson_rate
from cluster.reporting.evaluation import run_evaluations
from cluster.reporting.evaluation_tables import p_value
from cluster.reporting.metrics import read_metrics
from cluster.reporting.paired import Paired, paired_with_earlier
from trajectories.errors import UserError

PHASES = ("probe", "sft", "rl", "evaluation")


class _Costs(Frozen):
    """What training took: `seconds` by phase; engines' and workers' start is in none of them."""

    seconds: dict[str, float]

    @property
    def training_seconds(self) -> float:
        """Everything but evaluation."""
        return sum(spent for phase, spent in self.seconds.items() if phase != "evaluation")


class RunSummary(_Costs):
    """One run.

    Attributes:
        success: greedy success in the last evaluation, by panel.
        sampled: sampled success there, where samples were played.
        paired: every evaluation against earlier ones on the same tasks.
        tokens: trained by each objective.
        response_tokens: mean length of a response over the RL steps; None where there were none.
    """

    success: dict[str, Rate]
    sampled: dict[str, Rate]
    paired: tuple[Paired, ...]
    panel_hashes: dict[str, str]
    tokens: dict[str, float]
    response_tokens: float | None


class ArmSummary(_Costs):
    """All seeds of one arm on one panel.

    Attributes:
        pooled: greedy wins and episodes of all seeds together, with their Wilson interval, which covers the choice of
            games only.
        mean, low, high: mean greedy success over seeds and its 95 % t-interval; with one seed, low and high are NaN.
        least, most: over seeds.
        sampled: mean of sampled success over seeds; None where some run has none.
        response_tokens: mean over seeds; None where some run has none.
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
    sampled: float | None
    tokens: dict[str, float]
    response_tokens: float | None
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
    responses = [record["response_tokens"] for record in records if "response_tokens" in record]
    return RunSummary(
        success={result.panel: result.greedy.success for result in last},
        sampled={result.panel: result.sampled.success for result in last if result.sampled},
        paired=paired_with_earlier(evaluations),
        panel_hashes={result.panel: result.panel_hash for result in last},
        seconds={
            "probe": probe,
            "sft": by_stage["sft"],
            "rl": by_stage["grpo"] + by_stage["mixed"] - online_probe,
            "evaluation": sum(result.seconds for results in evaluations.values() for result in results),
        },
        tokens={name: sum(record.get(f"{name}/tokens", 0.0) for record in records) for name in ("sft", "grpo")},
        response_tokens=statistics.fmean(responses) if responses else None,
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


def _summarise_arm(arm: str, panel: str, runs: Sequence[RunSummary], base: Sequence[RunSummary] | None) -> ArmSummary:
    rates, responses = [run.success[panel] for run in runs], [run.response_tokens for run in runs]
    successes, sampled = [rate.rate for rate in rates], all(panel in run.sampled for run in runs)
    low, high = t_interval(successes)
    seconds = {phase: statistics.fmean(run.seconds[phase] for run in runs) for phase in PHASES}
    speedup = None
    if base is not None:
        speedup = sum(run.training_seconds for run in base) / sum(run.training_seconds for run in runs)
    return ArmSummary(
        arm=arm,
        panel=panel,
        pooled=wilson_rate(sum(rate.wins for rate in rates), sum(rate.episodes for rate in rates)),
        mean=statistics.fmean(successes),
        low=low,
        high=high,
        least=min(successes),
        most=max(successes),
        sampled=statistics.fmean(run.sampled[panel].rate for run in runs) if sampled else None,
        seconds=seconds,
        tokens={name: statistics.fmean(run.tokens[name] for run in runs) for name in runs[0].tokens},
        response_tokens=None if None in responses else statistics.fmean(one for one in responses if one is not None),
        speedup=speedup,
    )


def markdown(comparison: Comparison) -> str:
    """A table for each panel; a second one tells what each run won and lost since earlier weights, where it was
    evaluated before."""
    lines = []
    for panel in dict.fromkeys(arm.panel for arm in comparison.arms):
        digest = next(run.panel_hashes[panel] for run in comparison.runs.values())
        speedup = f"speed-up against {comparison.reference}" if comparison.reference else "speed-up"
        lines += [
            f"Panel `{panel}` ({digest[:8]}), seeds {', '.join(map(str, comparison.seeds))}; seconds and tokens are "
            "means over seeds.",
            "",
            "| arm | greedy success, mean over seeds [least, most] | 95 % t-interval | all seeds together [95 %] "
            "| sampled success | probe s | SFT s | RL s | evaluation s | training s | SFT tokens | GRPO tokens "
            f"| tokens a response | {speedup} |",
            "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
            *(_row(arm) for arm in comparison.arms if arm.panel == panel),
            "",
            *_paired_table(comparison, panel),
        ]
    return "\n".join(lines)


def _row(arm: ArmSummary) -> str:
    interval = "one seed" if math.isnan(arm.low) else f"[{arm.low:.3f}, {arm.high:.3f}]"
    pooled = f"{arm.pooled.wins}/{arm.pooled.episodes}, {arm.pooled}"
    seconds = " | ".join(f"{spent:.1f}" for spent in (*map(arm.seconds.get, PHASES), arm.training_seconds))
    response = "" if arm.response_tokens is None else f"{arm.response_tokens:.1f}"
    tokens = " | ".join(f"{arm.tokens[name]:,.0f}" for name in ("sft", "grpo"))
    speedup = "" if arm.speedup is None else f"{arm.speedup:.2f}"
    success = f"{arm.mean:.3f} [{arm.least:.3f}, {arm.most:.3f}]"
    sampled = "" if arm.sampled is None else f"{arm.sampled:.3f}"
    return (
        f"| {arm.arm} | {success} | {interval} | {pooled} | {sampled} | {seconds} | {tokens} | {response} | {speedup} |"
    )


def _paired_table(comparison: Comparison, panel: str) -> list[str]:
    """The last evaluation of every run, task by task, against those that it is compared with."""
    rows = []
    for name, run in comparison.runs.items():
        pairs = [pair for pair in run.paired if pair.panel == panel]
        for pair in pairs:
            if pair.weights == pairs[-1].weights:
                rows.append(f"| {name} | {_paired_cells(pair)} |")
    if not rows:
        return []
    head = "| run | weights | against | won | lost | p | sampled, difference [95 %] |"
    return ["The same tasks by earlier weights:", "", head, "|---|---|---|---|---|---|---|", *rows, ""]


def _paired_cells(pair: Paired) -> str:
    names = [name.replace("_", " ") for name in (pair.weights, pair.against)]
    greedy = [str(pair.greedy.won), str(pair.greedy.lost), p_value(pair.greedy)]
    return " | ".join([*names, *greedy, str(pair.sampled or "")])
