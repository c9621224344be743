"""Evaluations of a run against earlier ones, task by task: far sharper than two intervals side by side."""

from __future__ import annotations

from cluster.reporting.estimators import Difference, Frozen, WonLost, mcnemar, paired_difference
from cluster.reporting.evaluation import Evaluation, Evaluations, Outcome

BASELINES = ("base", "after_sft")
"""What later evaluations are compared with: the weights that the run began with, and those before its RL stage."""

NO_EXPERIENCE = "no experience"
"""What an evaluation with experience is compared with besides: itself without."""


class Paired(Frozen):
    """The evaluation `weights` against an earlier one, or against itself without experience, on the same tasks of a
    panel.

    Attributes:
        sampled: None unless both were sampled, at one temperature.
    """

    panel: str
    weights: str
    against: str
    greedy: WonLost
    sampled: Difference | None


def paired_with_earlier(evaluations: Evaluations) -> tuple[Paired, ...]:
    """Every evaluation against each of `BASELINES` that came before it and played the same tasks: the panel's hash and
    the limit say so."""
    names = list(evaluations)
    return tuple(
        paired(name, now, against, before)
        for at, name in enumerate(names)
        for against in BASELINES
        if against in names[:at]
        for now in evaluations[name]
        for before in evaluations[against]
        if now.panel_key == before.panel_key
    )


def paired_without_experience(evaluations: Evaluations) -> tuple[Paired, ...]:
    """Every evaluation whose prompts carried experience against itself without, by the same weights and seeds."""
    return tuple(
        Paired(
            panel=now.panel,
            weights=name,
            against=NO_EXPERIENCE,
            greedy=mcnemar(_solved(now.greedy_without), _solved(now.greedy)),
            sampled=paired_difference(_shares(now.sampled_without), _shares(now.sampled))
            if now.sampled and now.sampled_without
            else None,
        )
        for name, results in evaluations.items()
        for now in results
        if now.greedy_without
    )


def paired(name: str, now: Evaluation, against: str, before: Evaluation) -> Paired:
    """Two evaluations that played the same tasks, by the names that a table has for them."""
    sampled = None
    if now.sampled and before.sampled and now.sampled.temperature == before.sampled.temperature:
        sampled = paired_difference(_shares(before.sampled), _shares(now.sampled))
    greedy = mcnemar(_solved(before.greedy), _solved(now.greedy))
    return Paired(panel=now.panel, weights=name, against=against, greedy=greedy, sampled=sampled)


def _solved(greedy: Outcome) -> list[bool]:
    return [task.successes > 0 for task in greedy.tasks]


def _shares(sampled: Outcome) -> list[float]:
    return [task.successes / task.episodes for task in sampled.tasks]
