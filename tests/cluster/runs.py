"""Real runs of the command in processes of their own, small enough for a test."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import termios
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil

from trajectories.store import TrajectoryStore

REPO = Path(__file__).parents[2]
SETTINGS = {
    "schedule.sft_steps": 2,
    "schedule.grpo_steps": 4,
    "schedule.demonstrations": 8,
    "schedule.sft_batch": 4,
    "schedule.groups_per_step": 2,
    "schedule.group_size": 2,
    "schedule.dynamic_sampling": False,
    "evaluation.limit": 2,
    "rollout.max_turns": 4,
    "rollout.episodes": 4,
    "learner.lr": 1e-3,
}


def train_arguments(run_dir: Path, model: Path, **changes: object) -> list[str]:
    """Arguments of `concerto` for a run of a few steps; `changes` name settings with `__` for the dot."""
    settings = SETTINGS | {"policy.model": model} | {name.replace("__", "."): at for name, at in changes.items()}
    overrides = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    return ["train", "--preset", "local", "--out", str(run_dir), *overrides]


class RunProcess:
    """`concerto train` as a child process; remembers every process that it ever had below it. Leaving its `with` block
    ends what is left. With `module="tests.cluster.guard"` its own process must not see a token. `terminal` is the end
    of a pseudo-terminal from which it is started."""

    def __init__(self, arguments: list[str], log: Path, module: str = "cluster", terminal: int | None = None) -> None:
        self._log = log
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=REPO,
                env=environment,
                stdin=terminal,
                stdout=file,
                stderr=subprocess.STDOUT if terminal is None else terminal,
                start_new_session=True,
                preexec_fn=None if terminal is None else lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            )
        self._seen: set[psutil.Process] = set()

    def __enter__(self) -> RunProcess:
        return self

    def __exit__(self, *error: object) -> None:
        self.descendants()
        self.process.kill()
        self.process.wait(30)
        for left in self._seen:
            with contextlib.suppress(psutil.NoSuchProcess):
                left.kill()

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def descendants(self) -> list[psutil.Process]:
        try:
            found = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        self._seen.update(found)
        return found

    def wait_until(self, what: str, condition: Callable[[], bool], timeout_s: float = 500.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            self.descendants()
            assert self.process.poll() is None, f"the run ended before {what}:\n{self.log()}"
            assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}\n{self.log()}"
            time.sleep(0.2)

    def wait(self, timeout_s: float = 500.0) -> int:
        deadline = time.monotonic() + timeout_s
        while self.process.poll() is None:
            self.descendants()
            assert time.monotonic() < deadline, f"the run did not end within {timeout_s:g} s:\n{self.log()}"
            time.sleep(0.2)
        return self.process.returncode

    def kill_actor(self, kind: str) -> int:
        """kill -9 of one actor process, by the class name in its title."""
        victims = [process for process in self.descendants() if kind in title(process)]
        assert victims, f"no process of a {kind}"
        victims[0].kill()
        return victims[0].pid

    def assert_nothing_left(self) -> None:
        _, alive = psutil.wait_procs(self._seen, timeout=20)
        left = [process for process in alive if title(process)]
        assert not left, f"still running: {[title(process)[:80] for process in left]}"


def title(process: psutil.Process) -> str:
    """The command line; empty for a process that has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def trained_tasks(run_dir: Path) -> Counter[str]:
    """How often each task was trained: once a group."""
    store = TrajectoryStore(run_dir / "trajectories")
    tasks: Counter[str] = Counter()
    for number in range(len(store)):
        episodes = store.read(number)[0].select(["group_id", "task_id"]).to_pylist()
        tasks.update(task for _, task in {(row["group_id"], row["task_id"]) for row in episodes})
    return tasks
