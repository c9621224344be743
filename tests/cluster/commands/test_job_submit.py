"""`ray job submit` of a training run against a head that was started by hand, with token authentication."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster.reporting.metrics import read_metrics
from tests.cluster.runs import REPO, train_arguments

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

RAY = str(Path(sys.executable).with_name("ray"))


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def head() -> Iterator[tuple[str, dict[str, str]]]:
    """(dashboard address, environment with the token) of a Ray head of our own."""
    folder = tempfile.mkdtemp(prefix="cjob-")
    port, dashboard, client, agent, grpc, metrics = free_ports(6)
    environment = os.environ | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    environment.pop("RAY_ADDRESS", None)
    command = [RAY, "start", "--head", "--block", "--num-cpus=4", f"--temp-dir={folder}", f"--port={port}"]
    command += ["--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
    command += [f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}"]
    command += [f"--dashboard-agent-grpc-port={grpc}", f"--metrics-export-port={metrics}"]
    log = Path(folder) / "head.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
    address = f"http://127.0.0.1:{dashboard}"
    try:
        wait_for_dashboard(address, environment["RAY_AUTH_TOKEN"], process, log)
        yield address, environment
    finally:
        end(process)
        shutil.rmtree(folder, ignore_errors=True)


def wait_for_dashboard(address: str, token: str, process: subprocess.Popen[bytes], log: Path) -> None:
    request = urllib.request.Request(f"{address}/api/version", headers={"Authorization": f"Bearer {token}"})
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(request, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise AssertionError(f"no dashboard at {address} within 120 s:\n{log.read_text()}")


def end(process: subprocess.Popen[bytes]) -> None:
    """End the head and everything below it."""
    below = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.send_signal(signal.SIGTERM)
    _, alive = psutil.wait_procs([psutil.Process(process.pid), *below] if below else [], timeout=10)
    for left in alive:
        left.kill()
    process.wait(30)


def test_a_submitted_job_trains_on_a_cluster_with_token_authentication(head, tmp_path, tiny_model_dir):
    address, environment = head
    run_dir = tmp_path / "job-run"
    arguments = train_arguments(run_dir, tiny_model_dir, schedule__grpo_steps=1, schedule__sft_steps=1)
    command = [RAY, "job", "submit", f"--address={address}", "--working-dir", ".", "--"]
    command += ["python", "-m", "cluster", *arguments]
    done = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "succeeded" in done.stdout
    assert len(read_metrics(run_dir)) == 2
    assert environment["RAY_AUTH_TOKEN"] not in (run_dir / "config.yaml").read_text() + done.stdout


def test_without_the_token_nothing_is_accepted(head):
    address, environment = head
    stranger = environment | {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
    command = [RAY, "job", "list", f"--address={address}"]
    done = subprocess.run(command, env=stranger, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
