"""The manifests in `docker/` are what KubeRay, Docker Compose, Prometheus and Grafana take, as far as that can be told
without them."""

import json
import lzma
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from cluster.commands.jobs import STOP_WAIT_S

REPO = Path(__file__).parents[2]
DOCKER = REPO / "docker"
KUBERAY = json.loads(lzma.decompress((Path(__file__).parent / "data" / "kuberay.json.xz").read_bytes()))
"""`openAPIV3Schema` by kind, of KubeRay's CRDs for `ray.io/v1` (commit feeaf72f, Apache-2.0), without descriptions."""


def strict(schema: Any) -> Any:
    """The schema, which also refuses fields that it does not name, as a strict API server does."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: strict(value) for key, value in schema.items()}
    named = isinstance(schema.get("properties"), dict) and schema.get("type") == "object"
    if named and schema["properties"] and "additionalProperties" not in schema:
        closed["additionalProperties"] = False
    return closed


def read(file: str) -> dict[str, Any]:
    return yaml.safe_load((DOCKER / file).read_text(encoding="utf-8"))


def check(manifest: dict[str, Any]) -> None:
    schema = strict(KUBERAY[manifest["kind"]])
    schema["properties"]["metadata"] = {"type": "object", "required": ["name"]}  # the API server's own
    jsonschema.validate(manifest, schema)


@pytest.mark.parametrize("file", ["kuberay/raycluster.yaml", "kuberay/rayjob.yaml"])
def test_kuberay_takes_the_manifest(file):
    manifest = read(file)
    assert manifest["apiVersion"] == "ray.io/v1"
    check(manifest)


def test_a_misspelt_field_of_a_manifest_would_be_found():
    manifest = read("kuberay/raycluster.yaml")
    manifest["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["imagee"] = "x"
    with pytest.raises(jsonschema.ValidationError, match="imagee"):
        check(manifest)


def test_the_job_runs_on_the_cluster_of_the_other_manifest():
    assert read("kuberay/rayjob.yaml")["spec"]["rayClusterSpec"] == read("kuberay/raycluster.yaml")["spec"]


def test_the_operator_has_the_token_too_and_gives_it_to_the_pod_that_submits():
    spec = read("kuberay/raycluster.yaml")["spec"]
    assert spec["authOptions"] == {"mode": "token", "secretName": "concerto-token"}
    pinned = re.findall(r"^ray==(\S+)$", (REPO / "requirements" / "gpu.txt").read_text(), re.MULTILINE)
    assert [spec["rayVersion"]] == pinned  # without it KubeRay refuses the token, and its probes want a wget


def test_every_volume_that_is_mounted_is_there():
    spec = read("kuberay/raycluster.yaml")["spec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert all(mount["name"] in volumes for one in pod["containers"] for mount in one["volumeMounts"])


def test_the_command_of_the_job_is_one_of_concerto_and_has_time_to_stop():
    spec = read("kuberay/rayjob.yaml")["spec"]
    words = shlex.split(spec["entrypoint"])
    assert words[:3] == ["python", "-m", "cluster"]
    help_ = subprocess.run(
        [sys.executable, *words[1:4], "--help"], cwd=REPO, capture_output=True, text=True, timeout=60
    )
    assert help_.returncode == 0 and all(word in help_.stdout for word in words if word.startswith("--"))
    assert yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"] == str(STOP_WAIT_S)


def test_compose_opens_no_port_to_the_network_and_mounts_what_there_is():
    compose = read("compose.yaml")
    assert set(compose["services"]) == {"head", "worker", "prometheus", "grafana"}
    for service in compose["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert source in compose["volumes"] or (DOCKER / source).exists()
    token = compose["services"]["head"]["environment"]["RAY_AUTH_TOKEN"]
    assert token.startswith("${RAY_AUTH_TOKEN:?")  # none is in the file, and without one nothing starts


def test_prometheus_reads_the_alerts_from_where_compose_puts_them():
    prometheus = read("prometheus/prometheus.yml")
    assert all((DOCKER / "prometheus" / file).exists() for file in prometheus["rule_files"])
    (job,) = prometheus["scrape_configs"]
    assert job["dns_sd_configs"][0]["port"] == 8080
    commands = [read("compose.yaml")["services"][name]["command"] for name in job["dns_sd_configs"][0]["names"]]
    assert all("--metrics-export-port=8080" in command for command in commands)
