"""Start-up: seconds of the imports, of `concerto --help`, and of a run until its first step is in the metrics.

    python -m benchmarks.startup [--model DIR] [--repeats 3] [--out FILE]

Each command and import is a process of its own; a first one fills the file cache and is not counted. The run is
`concerto train --preset local` with one small GRPO step and no evaluation: Ray, engine, environments and learner have
to be there for it. It is started once, after all that warmed its imports.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.figures import Figure, write_figures
from cluster.reporting.metrics import read_metrics
from tests.cluster.runs import RunProcess, train_arguments

COMMANDS = {
    "python": ["-c", "pass"],
    "concerto --help": ["-m", "cluster", "--help"],
    "concerto train --help": ["-m", "cluster", "train", "--help"],
    **{f"import {name}": ["-c", f"import {name}"] for name in ("torch", "ray", "transformers", "vllm")},
}
"""What is started, as arguments of Python."""
ONE_STEP = {"schedule__sft_steps": 0, "schedule__grpo_steps": 1, "evaluation__panels": "[]"}
LIMIT_S = 400.0


def seconds_of(arguments: list[str], repeats: int) -> float:
    """Median seconds of a process. Raises CalledProcessError."""
    seconds = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def run_seconds(model: Path, folder: Path) -> tuple[float, float]:
    """Seconds of a run until its first step is in the metrics, and until it has ended."""
    arguments = train_arguments(folder / "run", model, **ONE_STEP)
    started = time.perf_counter()
    with RunProcess(arguments, folder / "log") as run:
        run.wait_until("the first step", lambda: bool(read_metrics(folder / "run")), LIMIT_S)
        first = time.perf_counter() - started
        code = run.wait()
        if code:
            raise SystemExit(f"the run ended with {code}:\n{run.log()[-2000:]}")
    return first, time.perf_counter() - started


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("concerto-tiny"), help="policy of the run")
    parser.add_argument("--repeats", type=int, default=3, help="processes of each command and import")
    parser.add_argument("--out", type=Path, help="JSON file")
    return parser


def main() -> None:
    options = make_parser().parse_args()
    figures = []
    for name, arguments in COMMANDS.items():
        figures.append(Figure(name, seconds_of(arguments, options.repeats), "s"))
        print(f"{name}: {figures[-1].shown}", flush=True)
    with tempfile.TemporaryDirectory(prefix="concerto-bench-") as folder:
        first, end = run_seconds(options.model, Path(folder))
    figures += [Figure("a run until its first step", first, "s"), Figure("a run of one step, whole", end, "s")]
    print(f"a run: {first:.1f} s until its first step is in the metrics, {end:.1f} s in all")
    write_figures(options.out, "startup", figures)


if __name__ == "__main__":
    main()
