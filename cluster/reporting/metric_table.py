"""Every number that a run logs, defined once. What writes, draws or watches metrics takes their names from here:
`cluster.reporting.metrics`, `dashboard`, `alerts` and `metric_page`.

A name in `metrics.jsonl` may have variable parts, as `success/{environment}`; in Prometheus they are labels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache

LABELS = ("run", "stage")
"""Of every series; a metric with variable parts has those as well."""
SUFFIXES = {"s": "seconds", "share": "ratio", "nats": "nats"}
"""What the name of a unit is in Prometheus; counts of things name them already."""


class Kind(StrEnum):
    """How the values of several steps go together."""

    MEAN = "mean"
    """An average over what the step trained or played."""
    SUM = "sum"
    """Counted or measured in the step; over several steps it adds up."""
    TOTAL = "total"
    """Counted since the stage began; experience, since the run was started or resumed."""
    STATE = "state"
    """As it is at the end of the step."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A definition.

    Attributes:
        name: as in `metrics.jsonl`.
        unit: `s`, `share` (0 to 1), `nats`, the things that are counted, or empty for a bare number.
        help: what it says, in one sentence or two.
    """

    name: str
    kind: Kind
    unit: str
    help: str

    @property
    def variables(self) -> tuple[str, ...]:
        """Names of the variable parts."""
        return tuple(re.findall(r"\{(\w+)\}", self.name))

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of its series in Prometheus."""
        return (*LABELS, *self.variables)

    @property
    def gauge(self) -> str:
        """Name of Ray's gauge; Prometheus has it with Ray's prefix, see `series`.

        >>> Metric("reward/{channel}/mean", Kind.MEAN, "", "").gauge, Metric("step_s", Kind.SUM, "s", "").gauge
        ('concerto_reward_mean_by_channel', 'concerto_step_seconds')
        """
        words = [word for word in self.name.split("/") if not word.startswith("{")]
        base, suffix = "_".join(words).removesuffix("_s"), SUFFIXES.get(self.unit)
        by = f"_by_{'_and_'.join(self.variables)}" if self.variables else ""
        unit = f"_{suffix}" if suffix and not base.endswith(suffix) else ""
        return f"concerto_{base}{by}{unit}"

    @property
    def series(self) -> str:
        """The name in Prometheus."""
        return f"ray_{self.gauge}"


SECTIONS: Mapping[str, tuple[Metric, ...]] = {
    "The step": (
        Metric("step", Kind.STATE, "steps", "Number of the step, counted from 1; what is measured before has 0."),
        Metric("time", Kind.STATE, "s", "When the record was written, in seconds since 1970."),
        Metric("step_s", Kind.SUM, "s", "The whole step: waiting, training, publication and bookkeeping."),
        Metric("waited_s", Kind.SUM, "s", "Waiting for a batch of finished groups; 0 where the engines keep up."),
        Metric("seconds", Kind.SUM, "s", "The workers' part of the step: forward and backward passes, optimiser."),
        Metric("publish_s", Kind.SUM, "s", "Publication of the new weights to the engines, with the parity check."),
        Metric("checkpoint_s", Kind.SUM, "s", "Waits for the checkpoint before the step; not in `step_s`."),
        Metric(
            "read_s", Kind.SUM, "s", "The pass in which the policy reads rollouts for reward channels that need it."
        ),
        Metric("probe_s", Kind.SUM, "s", "The gradient probe: of the step, or of the whole corpus at step 0."),
        Metric("probe_share", Kind.MEAN, "share", "Share of the step that the probe took."),
        Metric("routing_s", Kind.SUM, "s", "At step 0: choosing the routes of the demonstrations, with their probe."),
        Metric("parity_error", Kind.STATE, "nats", "Greatest difference of log-probabilities of engine and learner."),
        Metric("parity_p99", Kind.STATE, "nats", "99th percentile of these differences over tokens."),
        Metric("parity_mean", Kind.STATE, "nats", "Their mean."),
        Metric("parity_used", Kind.STATE, "share", "That percentile over what is borne (schedule.parity_tolerance)."),
    ),
    "What was played": (
        Metric("groups", Kind.SUM, "groups", "Groups of the batch."),
        Metric("episodes", Kind.SUM, "episodes", "Episodes of the batch that ended properly."),
        Metric(
            "success", Kind.MEAN, "share", "Share of episodes that solved their task, those of skipped groups included."
        ),
        Metric("success/{environment}", Kind.MEAN, "share", "The same by environment."),
        Metric("turns", Kind.MEAN, "turns", "Turns of an episode."),
        Metric("response_tokens", Kind.MEAN, "tokens", "Tokens of a response, over all turns."),
        Metric(
            "failed_episodes", Kind.SUM, "episodes", "Episodes that environment or engine ended, after all retries."
        ),
        Metric("truncated", Kind.MEAN, "share", "Share of episodes that a limit on turns or tokens cut off."),
        Metric("length_limited", Kind.MEAN, "share", "Share of episodes for which the model's context was too short."),
        Metric("duplicates", Kind.MEAN, "share", "Share of episodes that repeat an earlier member of their group."),
        Metric("episode/generation_s", Kind.MEAN, "s", "Seconds of an episode in the engine."),
        Metric("episode/environment_s", Kind.MEAN, "s", "Seconds of an episode in its environment."),
        Metric("episode/waiting_s", Kind.MEAN, "s", "Seconds of an episode waiting for a place in either."),
    ),
    "Groups": (
        Metric("informative_groups", Kind.MEAN, "share", "Share of the batch's groups that have something to compare."),
        Metric(
            "staleness", Kind.MEAN, "versions", "Versions by which a group's oldest tokens were behind in training."
        ),
        Metric("staleness_max", Kind.STATE, "versions", "The same of the batch's most stale group."),
        Metric("staleness/{versions}", Kind.MEAN, "share", "Groups that were behind by so many versions."),
        Metric("groups_ready", Kind.STATE, "groups", "Finished groups that wait for a later step."),
        Metric("groups_running", Kind.STATE, "groups", "Groups that are being played."),
        Metric(
            "groups_submitted", Kind.TOTAL, "groups", "Groups that were sent out: all of the following, and running."
        ),
        Metric("groups_accepted", Kind.TOTAL, "groups", "Groups that closed with enough members."),
        Metric(
            "groups_filtered",
            Kind.TOTAL,
            "groups",
            "Groups with too few members, or too old: played again or given up.",
        ),
        Metric("groups_skipped", Kind.TOTAL, "groups", "Groups that dynamic sampling replaced: nothing to compare."),
        Metric("skipped_turns", Kind.SUM, "turns", "Turns of the groups that were skipped for this batch."),
    ),
    "The optimiser": (
        Metric("trained_tokens", Kind.SUM, "tokens", "Tokens with a weight in the loss, of all objectives together."),
        Metric("optimiser_steps", Kind.SUM, "steps", "Optimiser steps of this learner step."),
        Metric("lr", Kind.MEAN, "", "Learning rate."),
        Metric("grad_norm", Kind.MEAN, "", "Norm of the gradient before clipping."),
        Metric(
            "update_signal", Kind.MEAN, "", "How much Adam's last gradients agree: 1 all signal, 0.2 or less noise."
        ),
    ),
    "SFT": (
        Metric("sft/tokens", Kind.SUM, "tokens", "Tokens that SFT trained."),
        Metric("sft/sequences", Kind.SUM, "sequences", "Sequences that SFT trained."),
        Metric("sft/loss", Kind.MEAN, "nats", "Cross-entropy of a token."),
        Metric("sft/objective", Kind.MEAN, "", "What SFT adds to the objective, weights included."),
        Metric("sft/weight", Kind.STATE, "", "Factor of SFT in the loss."),
        Metric("sft/queued", Kind.STATE, "sequences", "Sequences that wait for a later step."),
    ),
    "GRPO": (
        Metric("grpo/tokens", Kind.SUM, "tokens", "Tokens that GRPO trained."),
        Metric("grpo/sequences", Kind.SUM, "sequences", "Sequences that GRPO trained."),
        Metric("grpo/loss", Kind.MEAN, "", "Policy loss of a token; it says little about learning."),
        Metric("grpo/objective", Kind.MEAN, "", "What GRPO adds to the objective, weights included."),
        Metric("grpo/ratio", Kind.MEAN, "", "Probability of a token under the policy over that when it was sampled."),
        Metric("grpo/clip_fraction", Kind.MEAN, "share", "Share of tokens whose gradient clipping removed."),
        Metric("grpo/masked_fraction", Kind.MEAN, "share", "Share of tokens outside the IcePop band."),
        Metric("grpo/behaviour_kl", Kind.MEAN, "nats", "How far the policy is from the one that sampled (k3)."),
        Metric("grpo/reference_kl", Kind.MEAN, "nats", "How far it is from the initial weights; 0 unless in the loss."),
        Metric("grpo/entropy", Kind.MEAN, "nats", "Entropy of the policy at a token: how much it still explores."),
        Metric("grpo/weight", Kind.STATE, "", "Factor of GRPO in the loss."),
        Metric("grpo/queued", Kind.STATE, "sequences", "Sequences that wait for a later step."),
    ),
    "Rewards": (
        Metric("reward/{channel}/mean", Kind.MEAN, "", "Mean of a reward over the batch."),
        Metric(
            "reward/{channel}/spread", Kind.MEAN, "", "Standard deviation within a group, averaged: what can teach."
        ),
        Metric("reward/{channel}/weight", Kind.MEAN, "share", "Weight of a reward in what advantages are made of."),
        Metric("reward/{channel}/sampled", Kind.MEAN, "share", "Share of rollouts for which it was drawn."),
        Metric("reward/entropy", Kind.MEAN, "share", "Entropy of the reward weights over its maximum: 1 all alike."),
        Metric("preference_s", Kind.SUM, "s", "What the preference model took for the step's answers."),
        Metric("judge_s", Kind.SUM, "s", "What the judge took for the step's answers."),
        Metric("judge/tokens", Kind.SUM, "tokens", "Tokens that the judge read and wrote, unusable replies included."),
        Metric("judge/unanswered", Kind.SUM, "answers", "Answers without a vote, which got a neutral score."),
        Metric("reward/kl", Kind.MEAN, "nats", "Divergence from the initial weights, where it is part of the reward."),
    ),
    "The Conductor": (
        Metric("conductor/loss", Kind.STATE, "", "Loss before its update; only steps that update it log these."),
        Metric(
            "conductor/entropy", Kind.STATE, "share", "Entropy of its probabilities over the maximum; 0: collapsed."
        ),
        Metric("conductor/temperature", Kind.STATE, "", "Its learned temperature."),
        Metric("conductor/version", Kind.STATE, "updates", "Updates so far."),
        Metric("conductor/held", Kind.STATE, "updates", "Updates in a row in which one channel had nearly all."),
        Metric("conductor/{channel}/weight", Kind.STATE, "share", "Probability that it gives a channel."),
        Metric("conductor/{channel}/weight/{kind}", Kind.MEAN, "share", "The same by kind of task, as trained on."),
    ),
    "The router": (
        Metric("router/sft", Kind.SUM, "trajectories", "Those that are imitated: of the step, or of the corpus."),
        Metric("router/grpo", Kind.SUM, "trajectories", "Those whose tasks are explored."),
        Metric("router/unrouted", Kind.SUM, "groups", "Groups without a reference trajectory; GRPO takes them."),
        Metric("router/waiting", Kind.SUM, "groups", "Groups whose score has no threshold yet to be compared with."),
        Metric("router/score", Kind.MEAN, "", "Concentration of the gradients, mean over the step's references."),
        Metric("router/score_p10", Kind.MEAN, "", "Tenth percentile of these; the threshold should lie among them."),
        Metric("router/score_p50", Kind.MEAN, "", "Their median."),
        Metric("router/score_p90", Kind.MEAN, "", "Their ninetieth percentile."),
        Metric("router/threshold", Kind.STATE, "", "What scores are compared with."),
        Metric("router/score_mean", Kind.MEAN, "", "At step 0: mean score of the corpus."),
        Metric("router/score_min", Kind.STATE, "", "At step 0: its lowest score."),
        Metric("router/score_max", Kind.STATE, "", "At step 0: its highest score."),
        Metric("router/sft/{environment}", Kind.SUM, "trajectories", "At step 0: imitated ones by environment."),
        Metric("router/grpo/{environment}", Kind.SUM, "trajectories", "At step 0: explored ones by environment."),
        Metric("router/score_mean/{environment}", Kind.MEAN, "", "At step 0: mean score by environment."),
        Metric("router/score_min/{environment}", Kind.STATE, "", "At step 0: lowest score by environment."),
        Metric("router/score_max/{environment}", Kind.STATE, "", "At step 0: highest score by environment."),
        Metric("router/score_p10/{environment}", Kind.MEAN, "", "At step 0: tenth percentile by environment."),
        Metric("router/score_p50/{environment}", Kind.MEAN, "", "At step 0: median by environment."),
        Metric("router/score_p90/{environment}", Kind.MEAN, "", "At step 0: ninetieth percentile by environment."),
        Metric("router/threshold/{environment}", Kind.STATE, "", "At step 0: threshold by environment."),
    ),
    "Experience": (
        Metric("experience/off", Kind.STATE, "", "1 once the run goes on without experience."),
        Metric("experience/waiting", Kind.STATE, "groups", "Finished groups on their way to the actor."),
        Metric("experience/unheard", Kind.TOTAL, "groups", "Groups that the actor never heard of."),
        Metric("experience/snapshot", Kind.STATE, "", "State of the memory that prompts are made of."),
        Metric("experience/types", Kind.STATE, "types", "Types of tasks that something is known of."),
        Metric("experience/items", Kind.STATE, "items", "Pieces of advice in all of them."),
        Metric("experience/pairs", Kind.TOTAL, "pairs", "Groups played partly without experience."),
        Metric("experience/rounds", Kind.TOTAL, "rounds", "Rounds of learning."),
        Metric("experience/rounds_failed", Kind.TOTAL, "rounds", "Those that failed."),
        Metric("experience/dropped", Kind.TOTAL, "items", "Pieces of advice dropped for doing harm."),
        Metric("experience/rolled_back", Kind.TOTAL, "states", "States of a type that were taken back."),
        Metric("experience/utility", Kind.STATE, "", "Success with experience less success without it."),
        Metric("experience/utility_low", Kind.STATE, "", "Lower end of its 95 % interval."),
        Metric("experience/utility_high", Kind.STATE, "", "Upper end of its 95 % interval."),
        Metric("experience/{call}_tokens", Kind.TOTAL, "tokens", "What a step of learning has cost at the chat model."),
    ),
}
"""All definitions, in the order of `docs/metrics.md`."""

METRICS = {metric.name: metric for section in SECTIONS.values() for metric in section}
_FAMILIES = [
    (re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>.+)", re.escape(metric.name))), metric)
    for metric in METRICS.values()
    if metric.variables
]


@cache
def defined(name: str) -> tuple[Metric, Mapping[str, str]]:
    """The definition of a metric as it is logged, and its variable parts by name.

    >>> defined("success/alfworld")[0].name, defined("success/alfworld")[1], defined("lr")[1]
    ('success/{environment}', {'environment': 'alfworld'}, {})

    Raises:
        KeyError: it has none.
    """
    if name in METRICS and not METRICS[name].variables:
        return METRICS[name], {}
    for pattern, metric in _FAMILIES:
        if found := pattern.fullmatch(name):
            return metric, found.groupdict()
    raise KeyError(f"the metric {name!r} has no definition: add one to cluster/reporting/metric_table.py")
