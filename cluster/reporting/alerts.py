"""Makes Prometheus' alert rules: `python -m cluster.reporting.alerts > docker/prometheus/alerts.yml`.

What the last record does not have has no series, and so no alert.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from cluster.reporting.metric_table import METRICS


@dataclass(frozen=True, slots=True)
class Alert:
    """A rule.

    Attributes:
        condition: PromQL, in which a metric's name stands in braces: `{step}`.
        lasts: how long it must hold.
        summary: the line that a person reads.
        fix: where to look.
    """

    name: str
    condition: str
    lasts: str
    severity: str
    summary: str
    fix: str


ALERTS = (
    Alert(
        "ConcertoNoProgress",
        "time() - max by (run) ({time}) > 1800",
        "1m",
        "critical",
        "no step has ended for half an hour",
        "the job's log says what it waits for; a long evaluation is no fault",
    ),
    Alert(
        "ConcertoParity",
        "max by (run) ({parity_used}) > 0.5",
        "0m",
        "warning",
        "engine and learner drift apart: the parity error is above half of what ends the run",
        "schedule.parity_tolerance does not fit the precision, or weights do not arrive",
    ),
    Alert(
        "ConcertoEntropyCollapse",
        "max by (run) ({grpo/entropy}) < 0.1 * max by (run) (max_over_time({grpo/entropy}[1d]))",
        "10m",
        "warning",
        "the policy's entropy has fallen below a tenth of what it was: it hardly explores any more",
        "raise grpo.entropy_weight, grpo.clip_high or schedule.temperature",
    ),
    Alert(
        "ConcertoConductorCollapse",
        "max by (run) ({conductor/entropy}) < 0.1",
        "10m",
        "warning",
        "the Conductor gives nearly all weight to one reward",
        "docs/rewards.md",
    ),
    Alert(
        "ConcertoNothingToCompare",
        "max by (run) ({informative_groups}) == 0",
        "10m",
        "warning",
        "no group has anything to compare: the steps teach nothing",
        "raise schedule.group_size or schedule.temperature, or set schedule.dynamic_sampling=true",
    ),
)


def rules() -> dict[str, Any]:
    """The rules as Prometheus reads them. Raises KeyError where one names a metric that has no definition."""
    return {"groups": [{"name": "concerto", "rules": list(_rules())}]}


def _rules() -> Iterator[dict[str, Any]]:
    for alert in ALERTS:
        yield {
            "alert": alert.name,
            "expr": alert.condition.format_map({name: metric.series for name, metric in METRICS.items()}),
            "for": alert.lasts,
            "labels": {"severity": alert.severity},
            "annotations": {"summary": f"{{{{ $labels.run }}}}: {alert.summary}", "description": alert.fix},
        }


if __name__ == "__main__":
    print("# Made of cluster/reporting/alerts.py by `make docs`.")
    print(yaml.safe_dump(rules(), sort_keys=False, width=200), end="")
