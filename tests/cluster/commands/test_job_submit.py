"""Training runs as jobs, by `ray job submit` and `concerto submit`, on a head that was started by hand, with token
authentication."""

from __future__ import annotations

import os
import re
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

from cluster.reporting.dashboard import ENGINES, ROWS
from cluster.reporting.metric_table import METRICS, defined
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
        "METRICS": f"http://127.0.0.1:{metrics}/metrics",
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


def concerto(environment: dict[str, str], *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cluster", *words]
    return subprocess.Popen(
        command, cwd=REPO, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def read_until(process: subprocess.Popen[str], part: str) -> str:
    """What the process prints up to the first line with `part`."""
    assert process.stdout is not None
    printed = ""
    for line in process.stdout:
        printed += line
        if part in line:
            return printed
    raise AssertionError(f"ended without {part!r}:\n{printed}")


def scraped(environment: dict[str, str], wanted: str) -> dict[str, str]:
    """Value by series of the node's Prometheus endpoint, as soon as it has the series `wanted`."""
    request = urllib.request.Request(
        environment["METRICS"], headers={"Authorization": f"Bearer {environment['RAY_AUTH_TOKEN']}"}
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with urllib.request.urlopen(request, timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        series = dict(line.rsplit(" ", 1) for line in lines if line.startswith(("ray_concerto_", "ray_vllm_")))
        if any(name.startswith(f"{wanted}{{") for name in series):
            return series
        time.sleep(1)
    raise AssertionError(f"{wanted} was not scraped within 60 s")


def test_a_job_is_followed_scraped_and_stopped_with_its_checkpoint_and_no_process_left(head, tmp_path, tiny_model_dir):
    address, environment = head
    run_dir = tmp_path / "long-run"
    arguments = train_arguments(
        run_dir, tiny_model_dir, schedule__grpo_steps=200, schedule__sft_steps=1, schedule__max_idle=200
    )
    following = concerto(environment, "submit", "--address", address, "--env", "OMP_NUM_THREADS=1", "--", *arguments)
    try:
        (job,) = re.findall(r"Submitted (\S+) to", read_until(following, "Submitted"))
        read_until(following, "grpo: 200 of 200 steps to do")
        while len(read_metrics(run_dir)) < 3:
            assert following.poll() is None
            time.sleep(0.5)

        series = scraped(environment, METRICS["success"].series)
        every = {name.partition("{")[0] for name in series}
        asked = set(re.findall(r"ray_vllm_\w+", " ".join(sought for panel in ENGINES for _, sought in panel.series)))
        assert asked and all(scraped(environment, name) for name in asked)
        names = {name for name in every if name.startswith("ray_concerto_")}
        # Of the last record, but the run has gone on since it was scraped.
        records = [{defined(name)[0].series for name in one if name != "stage"} for one in read_metrics(run_dir)]
        assert names in records[2:]
        drawn = {METRICS[name].series for row in ROWS for panel in row.panels for name in panel.metrics}
        assert len(drawn & names) >= 20 and not any('"sft"' in name for name in series)  # of the last record alone

        following.send_signal(signal.SIGINT)
        said, _ = following.communicate(timeout=60)
        assert following.returncode == 130 and f"concerto jobs stop {job} --address {address}" in said
        status = concerto(environment, "jobs", "status", job, "--address", address)
        assert status.communicate(timeout=60)[0].startswith("RUNNING: ") and status.returncode == 0

        again = concerto(environment, "jobs", "logs", job, "--address", address)
        stopped = concerto(environment, "jobs", "stop", job, "--address", address)
        assert f"{job}: STOPPED" in stopped.communicate(timeout=300)[0] and stopped.returncode == 0
        log, _ = again.communicate(timeout=60)
        assert again.returncode == 130 and "grpo: 200 of 200 steps to do" in log and "stopping after this step" in log
        assert f"job {job} was stopped" in log
    finally:
        following.kill()
    assert (run_dir / "checkpoints").is_dir() and any((run_dir / "checkpoints").iterdir())
    assert_none_left(str(run_dir), "concerto:long-run")


def assert_none_left(*words: str) -> None:
    """No process whose command line has one of the words lives for longer than Ray needs to end it."""
    deadline = time.monotonic() + 30
    while left := [line for line in command_lines() if any(word in line for word in words)]:
        assert time.monotonic() < deadline, left
        time.sleep(1)


def command_lines() -> list[str]:
    return [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("jobs", "status", "raysubmit_none"), "no job 'raysubmit_none'"),
        (("jobs", "stop", "raysubmit_none"), "no job 'raysubmit_none'"),
        (("jobs", "logs", "raysubmit_none"), "no job 'raysubmit_none'"),
    ],
)
def test_a_job_that_there_is_not_is_named_in_one_line(head, words, part):
    address, environment = head
    process = concerto(environment, *words, "--address", address)
    (line,) = process.communicate(timeout=60)[0].splitlines()
    assert process.returncode == 2 and part in line


@pytest.mark.parametrize("token", [secrets.token_hex(32), ""])
def test_a_wrong_or_missing_token_is_told_in_one_line(head, tmp_path, token):
    address, environment = head
    stranger = environment | {"RAY_AUTH_TOKEN": token, "HOME": str(tmp_path)}
    if not token:
        del stranger["RAY_AUTH_TOKEN"], stranger["RAY_AUTH_MODE"]
    process = concerto(stranger, "submit", "--address", address, "--", "train", "--out", str(tmp_path / "run"))
    (line,) = process.communicate(timeout=60)[0].splitlines()
    assert process.returncode == 2 and "does not accept the token" in line


def test_a_submitted_command_gives_its_own_exit_code(head, tmp_path):
    address, environment = head
    words = ("train", "--out", str(tmp_path / "run"), "--set", "learner.lr=quick")
    process = concerto(environment, "submit", "--address", address, "--", *words)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 2 and "learner.lr='quick' does not fit" in printed
