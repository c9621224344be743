"""How large a run can `concerto report` show? Seconds and memory for a run of many episodes, on file and served.

    python -m benchmarks.report --episodes 100000 --out report.json [--run FOLDER]

The run is made first: parts of 200 episodes in groups of eight, twenty turns each, as the demo plays them; without
--run it is deleted at the end. Then, in processes of their own, `concerto report --out FILE`, and `concerto report
--serve` with a browser's questions to it. Peaks are the kernel's own (VmHWM); CPU seconds are beside the seconds, since
other load does not count in them. `opened_s` is from the start of the server to a browser's first contentful paint; the
browser runs before. Without Chromium nothing is painted.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psutil
import pyarrow as pa

from tests.cluster.reporting.browser import CHROMIUM, Browser, browser
from tests.cluster.reporting.report_runs import record, trajectory, write_run
from trajectories.files import written_aside
from trajectories.schema import assignments_to_table, to_tables
from trajectories.store import TrajectoryStore
from trajectories.types import Assignment, Route

GROUPS, MEMBERS, TURNS = 25, 8, 20
TASKS = 3000
SEEN = "You arrive at desk 1. On the desk 1, you see a mug 1, a pen 2, and a laptop 1. What do you do?"
SAID = "take mug 1 from desk 1"
POLL_S = 0.02
OPENED = 3
"""How often a server is started and its page painted: the seconds depend on what else the machine does."""


def make_run(folder: Path, episodes: int) -> None:
    """A finished run of so many episodes, or of a few more: its parts are whole."""
    write_run(folder, steps=0)
    store, tables = TrajectoryStore(folder / "trajectories"), _part()
    parts = -(-episodes // (GROUPS * MEMBERS))
    for part in range(parts):
        store.write(part, *_numbered(tables, part))
    steps = [record(part + 1) | {"episodes": GROUPS * MEMBERS, "groups": GROUPS} for part in range(parts)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))


def _part() -> tuple[pa.Table, pa.Table, pa.Table]:
    played = [trajectory(group, member, 0, SEEN, SAID, TURNS) for group in range(GROUPS) for member in range(MEMBERS)]
    assignments = [
        Assignment(one.sequence_id, Route.GRPO, (1.0,) * TURNS, 1.0, 0.0, {"success": 1.0})
        for trajectory in played
        for one in trajectory.sequences
    ]
    return *to_tables(played), assignments_to_table(assignments)


def _numbered(tables: tuple[pa.Table, pa.Table, pa.Table], part: int) -> tuple[pa.Table, pa.Table, pa.Table]:
    """The same episodes under the names that they would have in this part."""
    groups = [part * GROUPS + group for group in range(GROUPS) for _ in range(MEMBERS)]
    ids = [f"grpo-{group}-{at % MEMBERS}" for at, group in enumerate(groups)]
    columns = {
        "episode_id": ids,
        "sequence_id": [f"{name}-0" for name in ids],
        "group_id": [f"grpo-{group}" for group in groups],
        "task_id": [f"generated/train/look_at_obj-Mug-None-Desk-{group % TASKS}/trial_G{group:08}" for group in groups],
        "version_min": [part] * len(ids),
        "version_max": [part] * len(ids),
    }
    episodes, sequences, assignments = (_with(table, columns) for table in tables)
    return episodes, sequences, assignments


def _with(table: pa.Table, columns: dict[str, list[Any]]) -> pa.Table:
    for at, field in enumerate(table.schema):
        if field.name in columns:
            table = table.set_column(at, field, pa.array(columns[field.name], field.type))
    return table


@contextmanager
def report(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The command in a process of its own, which ends with the block."""
    command = [sys.executable, "-m", "cluster", "report", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def serving(run: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server, and its address, which it says when it is ready."""
    with report(str(run), "--serve", "--port", "0") as process:
        assert process.stdout is not None
        yield process, next(line.split()[4] for line in process.stdout)


def taken(process: subprocess.Popen[str]) -> dict[str, float] | None:
    """What a process has taken so far; None once it has ended."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
        times = psutil.Process(process.pid).cpu_times()
        peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    except (OSError, StopIteration, psutil.Error):
        return None
    return {"peak_mb": round(peak * 1024 / 1e6), "cpu_s": round(times.user + times.system, 2)}


def written(run: Path, out: Path, tab: Browser | None) -> dict[str, float]:
    """A report in one file, and how long a browser takes to show it."""
    began, figures = time.monotonic(), {}
    with report(str(run), "--out", str(out)) as process:
        while now := taken(process):
            figures = now
            time.sleep(POLL_S)
        assert process.wait() == 0
    figures |= {"seconds": round(time.monotonic() - began, 2), "page_mb": round(out.stat().st_size / 1e6, 1)}
    if tab is not None:
        began = time.monotonic()
        paint(tab, out.as_uri())
        figures["painted_s"] = round(time.monotonic() - began, 2)
    return figures


def served(run: Path) -> dict[str, dict[str, float] | None]:
    """What a reader waits for, one question after the other to one server, and what it has taken by then. The first
    page counts from the start of the command."""
    began, figures = time.monotonic(), {}
    with serving(run) as (process, url):

        def ask(name: str, path: str) -> bytes:
            asked = time.monotonic() if figures else began
            answer = urlopen(url + path).read()
            figures[name] = {"seconds": round(time.monotonic() - asked, 2), **(taken(process) or {})}
            return answer

        ask("first page", "")
        ask("page again", "")
        rows = json.loads(ask("list", f"episodes?run={run.name}"))["rows"]
        ask("filtered list", f"episodes?run={run.name}&outcome=solved&step=100-200")
        ask("episode", f"episode?run={run.name}&id={rows[-1]['id']}")
        ask("two seconds of search", f"episodes?run={run.name}&text=nowhere%20said")
    return figures


def opened(run: Path, tab: Browser) -> float:
    """Seconds from the start of the server to a painted page."""
    began = time.monotonic()
    with serving(run) as (_, url):
        paint(tab, url)
        return time.monotonic() - began


def paint(tab: Browser, url: str) -> None:
    """Wait until a browser shows something of a page."""
    tab.open(url)
    tab.wait("performance.getEntriesByName('first-contentful-paint').length")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=100_000)
    parser.add_argument("--run", type=Path, help="where the run is made, or, if it is there, lies; kept")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as aside, browser() if CHROMIUM else nullcontext() as tab:
        run = options.run or Path(aside) / "run"
        if not run.exists():
            make_run(run, options.episodes)
        figures: dict[str, Any] = {"episodes": options.episodes, "python": platform.python_version()}
        figures |= {"pyarrow": pa.__version__, "cores": psutil.cpu_count(), "load": psutil.getloadavg()[0]}
        figures["written"] = written(run, Path(aside) / "report.html", tab)
        figures["served"] = served(run)
        if tab is not None:
            figures["opened_s"] = [round(opened(run, tab), 2) for _ in range(OPENED)]
    print(json.dumps(figures, indent=1))
    if options.out is not None:
        with written_aside(options.out) as file:
            file.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
