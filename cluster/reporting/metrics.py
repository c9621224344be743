"""The run's numbers: a JSON line a step, TensorBoard scalars, and gauges in Ray's metrics (Prometheus, Grafana)."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cluster.reporting.metric_table import Metric, defined
from cluster.reporting.trackers import Trackers
from trajectories.files import read_lines, storing, written_aside
from trajectories.ids import plain_name


class MetricsWriter:
    """Writes each record to `RUN/metrics.jsonl` and `RUN/tensorboard/`, to Ray's gauges where Ray runs, and to the
    services that the run names.

    Lines from `from_step` on are removed first: a resumed run repeats the steps after its checkpoint. So is a last line
    that a kill or a full disk has torn, which `say` is told. All methods raise StorageError where the disk is at fault.
    What a number means is defined in `cluster.reporting.metric_table`; one that is not is in the files, but no gauge.
    """

    def __init__(
        self,
        run_dir: Path,
        from_step: int = 0,
        ray_metrics: bool = False,
        say: Callable[[str], None] = lambda line: None,
        trackers: Trackers | None = None,
    ) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter  # here, because who reads metrics needs no torch

        self._path = run_dir / "metrics.jsonl"
        self._keep_before(from_step, say)
        self._board = SummaryWriter(run_dir / "tensorboard", purge_step=from_step)
        self._gauges = RayGauges(plain_name(run_dir.name)) if ray_metrics else None
        self._trackers = trackers or Trackers({}, say)

    def write(self, step: int, stage: str, values: Mapping[str, float]) -> None:
        record = {"step": step, "stage": stage, "time": round(time.time(), 3), **values}
        with storing(self._path):
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            for name, value in values.items():
                self._board.add_scalar(f"{stage}/{name}", value, step)
            self._board.flush()
        if self._gauges is not None:
            self._gauges.show(stage, {name: value for name, value in record.items() if name != "stage"})
        self._trackers.log(step, stage, values)

    def close(self, failed: bool = False) -> None:
        """`failed`: the run ended by an error, which services are told."""
        self._trackers.close(failed)
        with storing(self._path):
            self._board.close()

    def _keep_before(self, step: int, say: Callable[[str], None]) -> None:
        if not self._path.exists():
            return
        records, torn = read_lines(self._path)
        if torn:
            say(f"the last line of {self._path} was torn and is cut off")
        kept = [record for record in records if record["step"] < step]
        with written_aside(self._path) as aside:
            aside.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")


class RayGauges:
    """Ray's gauges, and so Prometheus, show the last record of a run, and nothing that it does not have."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._gauges: dict[str, Any] = {}
        self._shown: dict[tuple[str, str], tuple[Metric, dict[str, str]]] = {}

    def show(self, stage: str, record: Mapping[str, float]) -> None:
        """Show this record in place of the one before."""
        now = {}
        for name, value in record.items():
            try:
                metric, parts = defined(name)
            except KeyError:
                continue  # a run does not end for a number that nobody has described
            tags = {"run": self._run, "stage": stage} | {label: plain_name(part) for label, part in parts.items()}
            now[stage, name] = metric, tags
            self._set(metric, value, tags)
        for series, (metric, tags) in self._shown.items():
            if series not in now:
                self._set(metric, math.nan, tags)  # Ray's agent leaves such a series out
        self._shown |= now

    def _set(self, metric: Metric, value: float, tags: Mapping[str, str]) -> None:
        from ray.util.metrics import Gauge

        if metric.gauge not in self._gauges:
            self._gauges[metric.gauge] = Gauge(metric.gauge, description=metric.help, tag_keys=metric.labels)
        self._gauges[metric.gauge].set(value, tags=tags)


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """All records of `RUN/metrics.jsonl`, in order, without a last line that is torn; an empty list when there is none.

    Raises UserError when the file or a line before the last cannot be read.
    """
    path = run_dir / "metrics.jsonl"
    if not path.exists():
        return []
    return read_lines(path)[0]
