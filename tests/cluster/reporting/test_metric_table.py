"""Every metric has one definition, and what is made of the definitions names no other."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
import yaml

from cluster.reporting import alerts, dashboard, metric_page
from cluster.reporting.metric_table import METRICS, SECTIONS, Kind, Metric, defined
from learners.objectives.grpo import GRPOObjective
from learners.objectives.sft import SFTObjective

REPO = Path(__file__).parents[3]
RECORDS = Path(__file__).parent / "data" / "records.jsonl"
"""Lines of `metrics.jsonl` that real runs have written: of all stages, with the Conductor, and of a routing."""
OWN = re.compile(r"ray_concerto_\w+")


@pytest.mark.parametrize("line", RECORDS.read_text().splitlines())
def test_all_that_runs_have_logged_is_defined(line):
    for name in json.loads(line).keys() - {"stage"}:
        assert defined(name)[0].help


@pytest.mark.parametrize("objective", [SFTObjective, GRPOObjective])
def test_all_that_an_objective_measures_is_defined(objective):
    for name in objective.metric_names:
        assert f"{objective.name}/{name}" in METRICS


@pytest.mark.parametrize("name", ["loss", "success/", "reward/success", "conductor/success"])
def test_what_has_no_definition_is_refused(name):
    with pytest.raises(KeyError, match=re.escape(repr(name))):
        defined(name)


def test_the_variable_part_of_a_name_becomes_a_label():
    metric, parts = defined("reward/action/validity/mean")
    assert (metric.gauge, metric.labels, parts) == (
        "concerto_reward_mean_by_channel",
        ("run", "stage", "channel"),
        {"channel": "action/validity"},
    )
    assert defined("router/score_mean/webshop")[0] is METRICS["router/score_mean/{environment}"]


def test_prometheus_can_hold_every_name_and_none_twice():
    names = [metric.gauge for metric in METRICS.values()]
    assert max(Counter(names).values()) == 1
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in names)
    for metric in METRICS.values():
        assert metric.gauge.endswith({"s": "_seconds", "share": "_ratio", "nats": "_nats"}.get(metric.unit, ""))


def test_no_definition_stands_twice_and_each_says_something():
    assert sum(len(section) for section in SECTIONS.values()) == len(METRICS)
    assert all(metric.help.endswith(".") for metric in METRICS.values())


@pytest.mark.parametrize(
    ("file", "made"),
    [
        ("docs/metrics.md", metric_page.page()),
        ("docker/grafana/concerto.json", json.dumps(dashboard.dashboard(), indent=1) + "\n"),
    ],
)
def test_what_is_made_of_the_definitions_is_not_stale(file, made):
    assert (REPO / file).read_text(encoding="utf-8") == made, "run `make docs`"


def test_the_alerts_are_not_stale():
    text = (REPO / "docker/prometheus/alerts.yml").read_text(encoding="utf-8")
    assert yaml.safe_load(text) == alerts.rules(), "run `make docs`"


@pytest.mark.parametrize("file", ["docker/grafana/concerto.json", "docker/prometheus/alerts.yml"])
def test_dashboard_and_alerts_query_only_series_that_there_are(file):
    queried = set(OWN.findall((REPO / file).read_text(encoding="utf-8")))
    assert queried and queried <= {metric.series for metric in METRICS.values()}


def test_a_panel_of_a_metric_that_there_is_not_cannot_be_made(monkeypatch):
    wrong = dashboard.Row("Wrong", "", (dashboard.Panel("Wrong", ("sucess",)),))
    monkeypatch.setattr(dashboard, "ROWS", (wrong,))
    with pytest.raises(KeyError, match="sucess"):
        dashboard.dashboard()


def test_a_panel_has_one_unit(monkeypatch):
    wrong = dashboard.Row("Wrong", "", (dashboard.Panel("Mixed", ("success", "step_s")),))
    monkeypatch.setattr(dashboard, "ROWS", (wrong,))
    with pytest.raises(ValueError, match="'Mixed' has metrics of the units"):
        dashboard.dashboard()


def test_panels_do_not_overlap():
    taken: set[tuple[int, int]] = set()
    for panel in dashboard.dashboard()["panels"]:
        place = panel["gridPos"]
        columns, lines = range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        cells = {(x, y) for x in columns for y in lines}
        assert not cells & taken and max(columns) < dashboard.COLUMNS
        taken |= cells


def test_an_alert_on_a_metric_that_there_is_not_cannot_be_made(monkeypatch):
    wrong = alerts.Alert("Wrong", "{sucess} > 1", "1m", "warning", "", "")
    monkeypatch.setattr(alerts, "ALERTS", (wrong,))
    with pytest.raises(KeyError, match="sucess"):
        alerts.rules()


def test_the_guide_explains_every_row_and_every_alert():
    guide = (REPO / "docs/cluster.md").read_text(encoding="utf-8")
    assert all(f"| {row.title} |" in guide for row in dashboard.ROWS)
    assert all(f"| `{alert.name}` |" in guide for alert in alerts.ALERTS)


def test_a_kind_is_explained():
    assert set(metric_page.KINDS) == set(Kind)
    assert Metric("a_s", Kind.SUM, "s", "").series == "ray_concerto_a_seconds"
