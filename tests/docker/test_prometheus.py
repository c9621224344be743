"""Prometheus' own tool on our rules and expressions: Debian's package `prometheus`. Without it nothing runs here."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.reporting.alerts import ALERTS, rules

DOCKER = Path(__file__).parents[2] / "docker"
TOOL = shutil.which("promtool")
pytestmark = pytest.mark.skipif(TOOL is None, reason="promtool is not installed (Debian: prometheus)")
AT = "90m"
STORIES = {
    "ConcertoNoProgress": ("ray_concerto_time_seconds", "0x200", "0+60x200"),
    "ConcertoParity": ("ray_concerto_parity_used_ratio", "0.6x200", "0.4x200"),
    "ConcertoEntropyCollapse": ("ray_concerto_grpo_entropy_nats", "1x30 0.05x200", "1x30 0.2x200"),
    "ConcertoConductorCollapse": ("ray_concerto_conductor_entropy_ratio", "0.9x30 0.05x200", "0.9x30 0.2x200"),
    "ConcertoNothingToCompare": ("ray_concerto_informative_groups_ratio", "0x200", "0.1x200"),
}
"""By alert: its series, values by minute of a run for which it fires after 90 minutes, and of one for which not."""


def promtool(*arguments: str) -> str:
    """What the tool says. Fails where it finds fault."""
    assert TOOL is not None
    done = subprocess.run([TOOL, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_takes_its_configuration_and_rules():
    said = promtool("check", "config", str(DOCKER / "prometheus" / "prometheus.yml"))
    assert f"SUCCESS: {len(ALERTS)} rules found" in said


@pytest.mark.parametrize("alert", [alert.name for alert in ALERTS])
def test_an_alert_tells_a_run_in_trouble_from_one_that_is_not(tmp_path, alert):
    series, bad, good = STORIES[alert]
    rule = next(one for one in rules()["groups"][0]["rules"] if one["alert"] == alert)
    story: dict[str, Any] = {
        "interval": "1m",
        "input_series": [
            {"series": f'{series}{{run="bad",stage="grpo"}}', "values": bad},
            {"series": f'{series}{{run="good",stage="grpo"}}', "values": good},
        ],
        "alert_rule_test": [
            {
                "eval_time": AT,
                "alertname": alert,
                "exp_alerts": [
                    {
                        "exp_labels": rule["labels"] | {"run": "bad"},
                        "exp_annotations": {
                            name: text.replace("{{ $labels.run }}", "bad") for name, text in rule["annotations"].items()
                        },
                    }
                ],
            }
        ],
    }
    test = {"rule_files": [str(DOCKER / "prometheus" / "alerts.yml")], "tests": [story]}
    file = tmp_path / "test.yml"
    file.write_text(yaml.safe_dump(test), encoding="utf-8")
    assert "SUCCESS" in promtool("test", "rules", str(file))


def test_prometheus_understands_every_expression_of_the_dashboard(tmp_path):
    dashboard = json.loads((DOCKER / "grafana" / "concerto.json").read_text(encoding="utf-8"))
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    asked = [target["expr"].replace("$run", ".*") for panel in panels for target in panel["targets"]]
    recorded = [{"record": f"panel:{at}", "expr": expression} for at, expression in enumerate(asked)]
    file = tmp_path / "panels.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": recorded}]}), encoding="utf-8")
    assert f"SUCCESS: {len(asked)} rules found" in promtool("check", "rules", str(file)) and len(asked) > 50
