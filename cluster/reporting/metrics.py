"""The run's numbers: a JSON line a step, TensorBoard scalars, and gauges in Ray's metrics (Prometheus, Grafana)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trajectories.files import read_lines, storing, written_aside
from trajectories.ids import plain_name


class MetricsWriter:
    """Writes each record to `RUN/metrics.jsonl` and `RUN/tensorboard/`, and to Ray's gauges where Ray runs.

    Lines from `from_step` on are removed first: a resumed run repeats the steps after its checkpoint. So is a last line
    that a kill or a full disk has torn, which `say` is told. All methods raise StorageError where the disk is at fault.
    """

    def __init__(
        self,
        run_dir: Path,
        from_step: int = 0,
        ray_metrics: bool = False,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter  # here, because who reads metrics needs no torch

        self._path = run_dir / "metrics.jsonl"
        self._keep_before(from_step, say)
        self._board = SummaryWriter(run_dir / "tensorboard", purge_step=from_step)
        self._gauges: dict[str, Any] | None = {} if ray_metrics else None
        self._run = plain_name(run_dir.name)

    def write(self, step: int, stage: str, values: Mapping[str, float]) -> None:
        record = {"step": step, "stage": stage, "time": round(time.time(), 3), **values}
        with storing(self._path):
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            for name, value in values.items():
                self._board.add_scalar(f"{stage}/{name}", value, step)
            self._board.flush()
        if self._gauges is not None:
            for name, value in values.items():
                self._set_gauge(name, value, stage)

    def close(self) -> None:
        with storing(self._path):
            self._board.close()

    def _set_gauge(self, name: str, value: float, stage: str) -> None:
        from ray.util.metrics import Gauge

        assert self._gauges is not None
        if name not in self._gauges:
            identifier = "concerto_" + "".join(sign if sign.isascii() and sign.isalnum() else "_" for sign in name)
            self._gauges[name] = Gauge(identifier, description=f"{name} of a training step", tag_keys=("run", "stage"))
        self._gauges[name].set(value, tags={"run": self._run, "stage": stage})

    def _keep_before(self, step: int, say: Callable[[str], None]) -> None:
        if not self._path.exists():
            return
        records, torn = read_lines(self._path)
        if torn:
            say(f"the last line of {self._path} was torn and is cut off")
        kept = [record for record in records if record["step"] < step]
        with written_aside(self._path) as aside:
            aside.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """All records of `RUN/metrics.jsonl`, in order, without a last line that is torn; an empty list when there is none.

    Raises UserError when the file or a line before the last cannot be read.
    """
    path = run_dir / "metrics.jsonl"
    if not path.exists():
        return []
    return read_lines(path)[0]
