"""Makes the Grafana dashboard: `python -m cluster.reporting.dashboard > docker/grafana/concerto.json`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.reporting.metric_table import METRICS, Kind, Metric

WIDTH, HEIGHT, COLUMNS = 8, 7, 24
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
UNITS = {"s": "s", "share": "percentunit"}


@dataclass(frozen=True, slots=True)
class Panel:
    """A chart of some metrics, which have one unit.

    Attributes:
        per: each is divided by this metric; None: shown as it is.
    """

    title: str
    metrics: tuple[str, ...]
    per: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """Panels side by side, and what is to be read out of them."""

    title: str
    says: str
    panels: tuple[Panel, ...]


ROWS = (
    Row(
        "Is it learning?",
        "Success should rise while entropy falls slowly. Groups without anything to compare teach nothing.",
        (
            Panel("Success", ("success", "success/{environment}")),
            Panel("Informative groups", ("informative_groups", "duplicates")),
            Panel("Entropy of the policy", ("grpo/entropy",)),
        ),
    ),
    Row(
        "Is it fast?",
        "Where the seconds of a step go. Much waiting: more rollout actors; none at all: more learner workers.",
        (
            Panel("Seconds of a step", ("waited_s", "seconds", "publish_s", "probe_s", "read_s", "checkpoint_s")),
            Panel("Trained tokens per second", ("trained_tokens", "sft/tokens", "grpo/tokens"), per="step_s"),
            Panel("Seconds of an episode", ("episode/generation_s", "episode/environment_s", "episode/waiting_s")),
        ),
    ),
    Row(
        "What is played",
        "Episodes that a limit cuts off count as failures; failed ones point to an environment or engine that breaks.",
        (
            Panel("Cut off", ("truncated", "length_limited")),
            Panel("Turns of an episode", ("turns",)),
            Panel("Tokens of a response", ("response_tokens",)),
            Panel("Episodes", ("episodes", "failed_episodes")),
        ),
    ),
    Row(
        "Groups on their way",
        "Ready groups are the buffer between engines and learner; staleness is what that costs.",
        (
            Panel("Ready and running", ("groups_ready", "groups_running")),
            Panel("Staleness", ("staleness", "staleness_max")),
            Panel("Groups by staleness", ("staleness/{versions}",)),
            Panel("Since the stage began", ("groups_accepted", "groups_filtered", "groups_skipped")),
        ),
    ),
    Row(
        "The update",
        "Parity above 1 ends a run. Ratios far from 1 and clipping: the batch is too old, or the "
        "learning rate too high.",
        (
            Panel("Parity error over its tolerance", ("parity_used",)),
            Panel("Ratio to the sampling policy", ("grpo/ratio",)),
            Panel("Clipped and masked tokens", ("grpo/clip_fraction", "grpo/masked_fraction")),
            Panel("Divergence", ("grpo/behaviour_kl", "grpo/reference_kl", "reward/kl")),
            Panel("Gradient", ("grad_norm", "update_signal")),
            Panel("SFT loss", ("sft/loss",)),
        ),
    ),
    Row(
        "Rewards",
        "A channel that never varies within a group teaches nothing; weights that gather on one channel: the Conductor "
        "has collapsed.",
        (
            Panel("Mean of each channel", ("reward/{channel}/mean",)),
            Panel("Spread within groups", ("reward/{channel}/spread",)),
            Panel("Reward weights", ("reward/{channel}/weight", "conductor/{channel}/weight")),
            Panel("Weights by kind of task", ("conductor/{channel}/weight/{kind}",)),
            Panel("Entropy of the weights", ("conductor/entropy", "reward/entropy")),
            Panel("Conductor", ("conductor/temperature",)),
            Panel("Updates of the Conductor", ("conductor/version", "conductor/held")),
        ),
    ),
    Row(
        "Routes",
        "What is imitated and what is explored, and the concentration of gradients that decides it.",
        (
            Panel("Routed trajectories", ("router/sft", "router/grpo")),
            Panel("Not routed", ("router/unrouted", "router/waiting")),
            Panel("Concentration", ("router/score_p10", "router/score_p50", "router/score_p90", "router/threshold")),
        ),
    ),
)


@dataclass(frozen=True, slots=True)
class EnginePanel:
    """A chart of what vLLM itself measures; of all engines of the cluster, since it knows no runs.

    Attributes:
        series: legend and PromQL expression of each line.
    """

    title: str
    unit: str
    series: tuple[tuple[str, str], ...]


ENGINES_SAY = (
    "By vLLM, for all engines of the cluster. Requests that wait: more engines, or a larger "
    "rollout.engine.max_num_seqs. A full KV cache: fewer sequences, or more memory. Few hits: prompts share little."
)
ENGINES = (
    EnginePanel(
        "Requests",
        "short",
        (("running", "sum(ray_vllm_num_requests_running)"), ("waiting", "sum(ray_vllm_num_requests_waiting)")),
    ),
    EnginePanel("Use of the KV cache", "percentunit", (("{{WorkerId}}", "ray_vllm_kv_cache_usage_perc"),)),
    EnginePanel(
        "Tokens per second",
        "short",
        (
            ("sampled", "sum(rate(ray_vllm_generation_tokens_total[1m]))"),
            ("prompts", "sum(rate(ray_vllm_prompt_tokens_total[1m]))"),
        ),
    ),
    EnginePanel(
        "Prompt tokens found in the cache",
        "percentunit",
        (
            (
                "hits",
                "sum(rate(ray_vllm_prefix_cache_hits_total[1m])) / sum(rate(ray_vllm_prefix_cache_queries_total[1m]))",
            ),
        ),
    ),
)


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana imports it.

    Raises:
        KeyError: a panel names a metric that has no definition.
        ValueError: the metrics of a panel have different units.
    """
    return {
        "uid": "concerto",
        "title": "Concerto",
        "tags": ["concerto"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [_datasource(), _run_choice()]},
        "panels": [{"id": number, **panel} for number, panel in enumerate(_panels(), start=1)],
    }


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def _run_choice() -> dict[str, Any]:
    query = f"label_values({METRICS['step'].series}, run)"
    return {
        "name": "run",
        "type": "query",
        "datasource": DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": "run"},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
    }


def _panels() -> Iterator[dict[str, Any]]:
    top = 0
    rows = [(row.title, row.says, list(map(_chart, row.panels))) for row in ROWS]
    for title, says, charts in (*rows, ("Engines", ENGINES_SAY, list(map(_engine_chart, ENGINES)))):
        place = {"x": 0, "y": top, "w": COLUMNS, "h": 1}
        yield {"type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": place}
        for at, chart in enumerate(charts):
            line, left = divmod(at * WIDTH, COLUMNS)
            place = {"x": left, "y": top + 1 + line * HEIGHT, "w": WIDTH, "h": HEIGHT}
            yield {**chart, "description": says, "gridPos": place}
        top += 1 + HEIGHT * -(-len(charts) * WIDTH // COLUMNS)


def _engine_chart(panel: EnginePanel) -> dict[str, Any]:
    targets = [
        {"refId": chr(ord("A") + at), "datasource": DATASOURCE, "expr": expression, "legendFormat": legend}
        for at, (legend, expression) in enumerate(panel.series)
    ]
    return _timeseries(panel.title, panel.unit, {"drawStyle": "line", "spanNulls": False}, targets)


def _timeseries(
    title: str, unit: str, drawn: Mapping[str, Any], targets: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    return {
        "type": "timeseries",
        "title": title,
        "datasource": DATASOURCE,
        "fieldConfig": {"defaults": {"unit": unit, "custom": drawn}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": targets,
    }


def _chart(panel: Panel) -> dict[str, Any]:
    metrics = [METRICS[name] for name in panel.metrics]
    units = {metric.unit for metric in metrics}
    if len(units) != 1:
        raise ValueError(f"the panel {panel.title!r} has metrics of the units {sorted(units)}")
    unit, summed = units.pop(), all(metric.kind is Kind.SUM for metric in metrics)
    drawn = {"drawStyle": "bars" if summed and panel.per is None else "line", "spanNulls": False}
    targets = [_target(metric, panel.per, chr(ord("A") + at)) for at, metric in enumerate(metrics)]
    return _timeseries(panel.title, UNITS.get(unit, "short"), drawn, targets)


def _target(metric: Metric, per: str | None, reference: str) -> Mapping[str, Any]:
    chosen = '{run=~"$run"}'
    expression = f"{metric.series}{chosen}"
    if per is not None:
        expression += f" / {METRICS[per].series}{chosen}"
    legend = metric.name.replace("{", "{{").replace("}", "}}")
    return {"refId": reference, "datasource": DATASOURCE, "expr": expression, "legendFormat": f"{{{{run}}}} {legend}"}


if __name__ == "__main__":
    print(json.dumps(dashboard(), indent=1))
