"""The curves of a run: which of its numbers stand together in a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import groupby
from operator import itemgetter
from typing import Any

ROLLING = 10
"""Steps whose mean is drawn as the line of rollout success; the steps themselves are faint."""

Values = list[float | None]


@dataclass(frozen=True, slots=True)
class Chart:
    """A picture over steps.

    Attributes:
        names: patterns of the metrics that it shows.
        note: what it says, for a reader who sees it for the first time.
        moving: it is left out where none of its metrics ever changes, since it then says nothing.
    """

    title: str
    note: str
    names: tuple[str, ...]
    moving: bool = False


CHARTS = (
    Chart("Success", "Share of a step's episodes that were solved.", ("success", "success,*", "success/*")),
    Chart("Losses", "What each objective adds to the loss, per trained token or sequence.", ("*/loss",)),
    Chart("Entropy", "Of the policy's choice of a token, in nats. Near 0 it explores nothing.", ("*/entropy",)),
    Chart(
        "Seconds by phase",
        "Where a step's time went. Waiting: for rollouts that were not finished yet.",
        ("learner", "waiting", "probing", "reading", "publishing and the rest"),
    ),
    Chart("Staleness", "Versions between the weights that began an episode and those it trained.", ("staleness/m*",)),
    Chart("Groups by staleness", "Share of a step's groups, by versions they were behind.", ("staleness/[0-9]*",)),
    Chart("Routes", "Share of a step's sequences by what became of them.", ("route/*",)),
    Chart("Reward weights", "How much each reward counts.", ("reward/*/weight",), moving=True),
    Chart("Rewards", "Mean of each named reward over a step's episodes.", ("reward/*/mean",)),
    Chart(
        "Conductor",
        "The network that weighs the rewards.",
        ("conductor/loss", "conductor/entropy", "conductor/temperature", "conductor/held", "conductor/*/weight"),
        moving=True,
    ),
    Chart(
        "The Conductor by kind of task",
        "Probability that it gives a reward, over the step's rollouts of a kind.",
        ("conductor/*/weight/*",),
        moving=True,
    ),
    Chart("Router", "What the router decided, and the scores it compared.", ("router/*",), moving=True),
    Chart(
        "What can be compared",
        "Informative groups differ within; duplicates repeat an earlier member of their group.",
        ("informative_groups", "duplicates", "truncated", "length_limited"),
    ),
    Chart("Turns", "Of an episode, on average.", ("turns",)),
    Chart("Response length", "Tokens of a response, on average over all turns.", ("response_tokens",)),
    Chart("Gradient norm", "Before clipping.", ("grad_norm",)),
    Chart("Learning rate", "", ("lr",)),
    Chart(
        "Off-policy", "How far the learner is from the weights that played.", ("grpo/behaviour_kl", "grpo/*fraction")
    ),
    Chart(
        "Parity",
        "How engine and learner differ in log-probabilities, in nats: mean, 99th percentile, most.",
        ("parity_mean", "parity_p99", "parity_error"),
    ),
    Chart(
        "Trouble",
        "Episodes that broke, and groups that were filtered or skipped so far.",
        ("failed_episodes", "groups_filtered", "groups_skipped"),
        moving=True,
    ),
)


def run_charts(records: Sequence[Mapping[str, Any]], measured: Mapping[str, Values]) -> list[dict[str, Any]]:
    """The charts for which a run has numbers, each `{title, note, series}`; a series has one value a record.

    Args:
        measured: series that come from the trajectories, one value a record too.
    """
    series = _series(records) | dict(measured)
    charts = []
    for chart in CHARTS:
        shown = {name: values for name, values in series.items() if _matches(name, chart.names)}
        if shown and not (chart.moving and all(_constant(values) for values in shown.values())):
            charts.append({"title": chart.title, "note": chart.note, "series": _renamed(shown)})
    return charts


def phases(record: Mapping[str, Any]) -> dict[str, float]:
    """Seconds of one step by phase; the rest is what publication, the parity check and the recording took.

    >>> phases({"step_s": 5.0, "seconds": 3.0, "waited_s": 1.5})
    {'learner': 3.0, 'waiting': 1.5, 'publishing and the rest': 0.5}
    """
    named = {"learner": "seconds", "waiting": "waited_s", "probing": "probe_s", "reading": "read_s"}
    known = {phase: float(record[name]) for phase, name in named.items() if name in record}
    if "step_s" not in record:
        return known
    return known | {"publishing and the rest": max(0.0, float(record["step_s"]) - sum(known.values()))}


def stages(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Bands `{stage, first, last}`: the steps that each stage took, in order, without what was measured before them."""
    steps = [record for record in records if record["step"]]
    return [
        {"stage": stage, "first": (band := list(of_stage))[0]["step"], "last": band[-1]["step"]}
        for stage, of_stage in groupby(steps, key=itemgetter("stage"))
    ]


def rolling(values: Values, window: int) -> Values:
    """Means of the last `window` values that there are; None where there is none at that place.

    >>> rolling([1.0, None, 3.0], 2)
    [1.0, None, 2.0]
    """
    recent: list[float] = []
    means: Values = []
    for value in values:
        if value is not None:
            recent = [*recent[-window + 1 :], value] if window > 1 else [value]
        means.append(None if value is None else sum(recent) / len(recent))
    return means


def _series(records: Sequence[Mapping[str, Any]]) -> dict[str, Values]:
    rows = [{**record, **phases(record)} for record in records]
    names = dict.fromkeys(name for row in rows for name in row)
    series = {name: [finite(row.get(name)) for row in rows] for name in names}
    series = {name: values for name, values in series.items() if any(value is not None for value in values)}
    if len(alone := [name for name in series if name.startswith("success/")]) == 1:
        del series[alone[0]]  # the only environment's success is that of all
    if "success" in series:
        series[f"success, mean of {ROLLING} steps"] = rolling(series["success"], ROLLING)
    return series


def finite(value: object) -> float | None:
    """A number to six digits; None for anything else, NaN and infinity included, which JSON does not have."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(f"{value:.6g}")


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _constant(values: Values) -> bool:
    return len({value for value in values if value is not None}) <= 1


def _renamed(series: dict[str, Values]) -> dict[str, Values]:
    """Without the words that all names of a chart begin or end with, as in `reward/score/mean`."""
    parts = [name.split("/") for name in series]
    if len(parts) < 2 or len({len(part) for part in parts}) > 1:
        return series
    kept = [at for at in range(len(parts[0])) if len({part[at] for part in parts}) > 1]
    return {"/".join(part[at] for at in kept): values for part, values in zip(parts, series.values(), strict=True)}
