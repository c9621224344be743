"""`concerto compare`: the runs of a matrix one after the other, then one table and two pictures.

Each run is a `concerto train` of its own process, in `OUT/runs/<arm>-<seed>`. When the command is given again, what is
finished stays and what was cut off is resumed. Each run has the whole machine or cluster, so that seconds compare.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import yaml
from rich.console import Console

from cluster.config.matrix import MatrixSettings, load_matrix
from cluster.config.run import RunSettings
from cluster.inputs.run_folder import saved_config
from cluster.interruption import handled_by
from cluster.loop.checkpoint import has_checkpoint
from cluster.reporting.charts import write_charts
from cluster.reporting.curve import is_finished
from cluster.reporting.summary import Comparison, RunSummary, compare_runs, markdown, summarise_run
from trajectories.errors import ConcertoError, RunError, UserError
from trajectories.files import storing

INTERRUPTED = 130


class ComparisonInterrupted(ConcertoError):
    """The run under way was asked to stop, and has."""

    exit_code = INTERRUPTED
    fix = "the same command goes on"


def run_compare(matrix_file: Path, out: Path, console: Console) -> Comparison:
    """`compare_matrix` of a file. Raises UserError for a wrong matrix too."""
    return compare_matrix(load_matrix(matrix_file), str(matrix_file), out, console)


def compare_matrix(matrix: MatrixSettings, source: str, out: Path, console: Console) -> Comparison:
    """Train what is not trained yet, then write `OUT/table.md`, `comparison.json`, `success.svg` and `seconds.svg`.

    Args:
        source: where the matrix comes from, for what is said of it.
    Raises:
        UserError: `out` holds runs of another matrix.
        RunError: a run failed; the message names its log.
        ComparisonInterrupted: the run under way was interrupted.
    """
    runs = matrix.runs()
    for name, config in runs.items():
        check_same(out / "runs" / name, config, source)
    summaries: dict[str, RunSummary] = {}
    for number, (name, config) in enumerate(runs.items(), start=1):
        run_dir = out / "runs" / name
        if not is_finished(run_dir):
            console.print(f"{number} of {len(runs)}: {name}", highlight=False)
            started = time.monotonic()
            train_run(run_dir, config)
            console.print(f"  took {time.monotonic() - started:.0f} s", highlight=False)
        summaries[name] = summarise_run(run_dir)
    comparison = compare_runs(summaries, list(matrix.arms), matrix.seeds, matrix.reference)
    with storing(out / "table.md"):
        (out / "table.md").write_text(markdown(comparison), encoding="utf-8")
        (out / "comparison.json").write_text(comparison.model_dump_json(indent=1) + "\n", encoding="utf-8")
        write_charts(comparison, out)
    return comparison


def train_run(run_dir: Path, config: RunSettings) -> None:
    """One run as a process of its own. Raises RunError when it fails, ComparisonInterrupted when it is interrupted."""
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    file, log = run_dir.with_suffix(".yaml"), run_dir.with_suffix(".log")
    file.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), encoding="utf-8")
    command = [sys.executable, "-m", "cluster", "train", "--config", str(file), "--out", str(run_dir)]
    if has_checkpoint(run_dir):
        command.append("--resume")
    else:
        shutil.rmtree(run_dir, ignore_errors=True)
    code = run_process(command, log)
    if code == INTERRUPTED:
        raise ComparisonInterrupted(f"stopped in {run_dir.name}")
    if code or not is_finished(run_dir):
        raise RunError(f"the run {run_dir.name} ended with exit code {code}: see {log}, then give the command again")


def run_process(command: Sequence[str], log: Path) -> int:
    """Exit code of a command that writes to `log`. It does not outlive this process: the signals that end a command are
    passed on, the first to let it end its step, a second to end it at once; then the code is that of an interruption.
    """
    process: subprocess.Popen[bytes] | None = None
    interrupted = False

    def pass_on(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        if not interrupted:
            os.write(2, b"concerto: interrupted, the run under way ends its step; once more ends it at once\n")
        interrupted = True
        if process is not None:
            process.send_signal(signal.SIGINT)

    with handled_by(pass_on):
        with log.open("ab") as stream:
            process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True)
        if interrupted:  # before there was a process
            process.send_signal(signal.SIGINT)
        code = process.wait()
    return INTERRUPTED if interrupted else code


def check_same(run_dir: Path, config: RunSettings, source: str) -> None:
    """Raises UserError where the folder holds a run of other settings."""
    learned = has_checkpoint(run_dir) or is_finished(run_dir)  # else it is begun anew
    if learned and saved_config(run_dir) != config:
        raise UserError(f"{run_dir} was trained by other settings than those of {source}: name another --out.")
