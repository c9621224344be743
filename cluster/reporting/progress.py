"""Who is told what the run does: the metrics files, and a person at the terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from cluster.config.sections import Stage
from cluster.loop.coordinator import Interrupted
from cluster.reporting.entropy import EntropyWatch
from cluster.reporting.metrics import MetricsWriter

SHOWN = ("success", "sft/loss", "grpo/loss", "turns", "parity_error", "step_s")
QUIET_S = 10.0


class RunObserver:
    """Writes every step's metrics and shows progress: a live bar on a terminal, a line now and then elsewhere."""

    def __init__(self, console: Console, writer: MetricsWriter, watch: EntropyWatch) -> None:
        self._console, self._writer, self._watch = console, writer, watch
        self._progress = Progress(
            TextColumn("[bold]{task.description:>12}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[shown]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._stage: TaskID | None = None
        self._activities: dict[str, TaskID] = {}
        self._last_line = 0.0

    def __enter__(self) -> RunObserver:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._progress.stop()
        self._writer.close(failed=kind is not None and not issubclass(kind, Interrupted))

    def say(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False)

    def stage(self, stage: Stage, done: int) -> None:
        self.say(f"{stage.name}: {stage.steps - done} of {stage.steps} steps to do")
        self._stage = self._progress.add_task(stage.name, total=stage.steps, completed=done, shown="")
        self._last_line = 0.0

    def step(self, step: int, stage: str, metrics: Mapping[str, float]) -> None:
        self._writer.write(step, stage, metrics)
        if line := self._watch.observe(metrics):
            self.say(f"  step {step}: {line}")
        shown = "  ".join(f"{name} {metrics[name]:.3g}" for name in SHOWN if name in metrics)
        if self._stage is not None:
            self._progress.update(self._stage, advance=1, shown=shown)
        if not self._console.is_terminal and time.monotonic() - self._last_line >= QUIET_S:
            self._last_line = time.monotonic()
            self.say(f"  step {step}: {shown}")

    def record(self, stage: str, metrics: Mapping[str, float]) -> None:
        """Numbers from before the first step; they stand at step 0."""
        self._writer.write(0, stage, metrics)

    def activity(self, name: str, done: int, total: int) -> None:
        """`done` of `total` parts of something that is no stage: an evaluation, building demonstrations."""
        if name not in self._activities:
            self._activities[name] = self._progress.add_task(name, total=total, shown="")
        self._progress.update(self._activities[name], completed=done, total=total)
        if done == total:
            self._progress.remove_task(self._activities.pop(name))
