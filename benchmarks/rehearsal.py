"""A run on GPUs, rehearsed without one: would the GPU build take what our code gives it, and would the presets fit?

    python -m benchmarks.rehearsal [--version vllm==X] [--wheel FILE ...] [--cache runs/rehearsal] [--out FILE]

Fetches the wheels of vLLM and PyTorch that requirements/gpu.txt names (0.8 GB; once), and keeps their Python sources in
a folder of its own. They are read and never imported. Then, line by line:

    api        every import, call, override, environment variable and metric of ours that concerns them
    engine     the arguments that the presets `gpu` and `cluster` start engines with, by model and variant
    memory     the memory plan of both presets with each model
    placement  where the actors would go on 1 GPU, on 8, and on four nodes of 8

The exit code is 1 where the build lacks something, or a preset does not fit what it is made for.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.api.builds import Pair, imported_packages, read_lock, unpacked
from benchmarks.api.check import MISSING, Checker, Finding
from benchmarks.api.plans import (
    EngineCase,
    MemoryCase,
    PlacementCase,
    engine_cases,
    memory_cases,
    placement_cases,
    readable,
)
from benchmarks.api.sources import Sources
from benchmarks.api.tables import by_node, show_api, show_engines, show_memory, show_pairs, show_placement
from benchmarks.api.uses import uses_of
from trajectories.errors import UserError
from trajectories.files import written_aside

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements" / "gpu.txt"
OURS = ("actors", "cluster", "envs", "experience", "learners", "router", "trajectories")
PACKAGES = ("vllm", "torch")
"""Packages that the GPU lock has in another version than the CPU's, and that our source calls."""


def installed_sources(package: str) -> Sources | None:
    """The sources of an installed package, which is not imported for that."""
    spec = importlib.util.find_spec(package)
    return Sources(Path(spec.origin).parents[1]) if spec and spec.origin else None


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """All that was found out."""

    pairs: list[Pair]
    findings: list[Finding]
    engines: list[EngineCase]
    memory: list[MemoryCase]
    placed: list[PlacementCase]

    @property
    def faults(self) -> int:
        """How many things stand against a run on GPUs."""
        missing = sum(finding.state == MISSING for finding in self.findings)
        refused = sum(bool(case.faults) for case in self.engines)
        full = sum(not case.as_promised for case in self.memory)
        return missing + refused + full + sum(not case.as_promised for case in self.placed)

    def record(self) -> dict[str, Any]:
        """Everything, for a JSON file."""
        return {
            "faults": self.faults,
            "packages": [asdict(pair) for pair in self.pairs],
            "api": [
                {"state": one.state, "use": one.told, "where": one.use.where, "note": one.note} for one in self.findings
            ],
            "engines": [
                asdict(case) | {"arguments": {name: readable(value) for name, value in case.arguments.items()}}
                for case in self.engines
            ],
            "memory": [
                {"preset": case.preset, "model": case.config.policy.model} | asdict(case.plan) for case in self.memory
            ],
            "placement": [
                {"preset": case.preset, "machine": case.machine, "changes": case.changes, "nodes": by_node(case)}
                for case in self.placed
            ],
        }


def check_packages(
    lock: dict[str, str], wheels: list[Path], cache: Path, console: Console
) -> tuple[list[Finding], Sources]:
    """Read the locked build of each of `PACKAGES` and compare our source with it; also the sources of vLLM's.

    Raises UserError when a build cannot be had.
    """
    findings, builds = [], {}
    for package in PACKAGES:
        wheel = next((file for file in wheels if file.name.startswith(f"{package}-")), None)
        builds[package] = Sources(unpacked(package, lock[package], cache, wheel))
        checker = Checker(builds[package], installed_sources(package))
        found = checker.check(uses_of(ROOT, OURS, package))
        show_api(package, lock[package], found, console)
        findings += found
    return findings, builds["vllm"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--version", nargs="*", default=[], help="vllm==X, torch==X: others than requirements/gpu.txt's"
    )
    parser.add_argument("--wheel", type=Path, nargs="*", default=[], help="wheels that are at hand, not to be fetched")
    parser.add_argument("--cache", type=Path, default=Path("runs/rehearsal"), help="where sources are kept")
    parser.add_argument("--out", type=Path, help="JSON file for everything")
    arguments = parser.parse_args()
    console = Console(width=max(140, Console().width), soft_wrap=True, highlight=False, markup=False)
    lock = read_lock(LOCK.read_text(encoding="utf-8")) | read_lock("\n".join(arguments.version))
    pairs = imported_packages(ROOT, OURS, lock)
    show_pairs(pairs, console)
    try:
        findings, build = check_packages(lock, arguments.wheel, arguments.cache, console)
    except UserError as error:
        parser.error(str(error))
    rehearsal = Rehearsal(pairs, findings, engine_cases(build), memory_cases(), placement_cases())
    show_engines(rehearsal.engines, lock["vllm"], console)
    show_memory(rehearsal.memory, console)
    show_placement(rehearsal.placed, console)
    console.print(f"{rehearsal.faults} things stand against a run on GPUs")
    if arguments.out:
        with written_aside(arguments.out) as aside:
            aside.write_text(json.dumps(rehearsal.record(), indent=1) + "\n", encoding="utf-8")
    return 1 if rehearsal.faults else 0


if __name__ == "__main__":
    sys.exit(main())
