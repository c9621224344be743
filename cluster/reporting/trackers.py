"""Weights & Biases and MLflow: a run's metrics go to these services too, through their own clients.

A client finds its server and its keys in its own environment variables; none stands in a configuration. A run that is
resumed goes on in the run that it has there, by the ids in `RUN/tracking.json`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from cluster.config.sections import TrackingSettings
from trajectories.errors import UserError, first_line
from trajectories.files import reading, written_aside

IDS = "tracking.json"
CLIENTS = {"wandb": "wandb", "mlflow": "mlflow-skinny"}
"""Package of each setting's client."""
PATIENCE_S = 60
"""Seconds that a service gets to take what is left at the end of a run."""
UNKNOWN_TO_MLFLOW = re.compile(r"[^\w.\- :/]")
MLFLOW_BATCH, MLFLOW_WORDS = 100, 500
"""Most parameters that MLflow takes at a time, and most characters of one that all its versions take."""


class Tracker(Protocol):
    """A service that shows runs."""

    @property
    def id(self) -> str:
        """Names the run there."""
        ...

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Send the numbers of a step."""
        ...

    def close(self, failed: bool) -> None:
        """Send what is left, and say how the run ended."""
        ...


class WandbTracker:
    """A run in Weights & Biases. Its steps are those of the record, so that repeated ones lie upon each other."""

    def __init__(self, project: str, run_dir: Path, config: Mapping[str, Any], known: str | None) -> None:
        import wandb

        quiet = wandb.Settings(console="off", silent=True, finish_timeout=PATIENCE_S, init_timeout=PATIENCE_S)
        self._run = wandb.init(
            project=project,
            name=run_dir.name,
            id=known,
            resume="allow",
            dir=str(run_dir),
            config=dict(config),
            settings=quiet,
        )
        self._run.define_metric("*", step_metric="step")
        self._end = wandb.teardown

    @property
    def id(self) -> str:
        return self._run.id

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def close(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))
        self._end()  # its process


class MlflowTracker:
    """A run of an MLflow experiment. Metrics are sent in the background, so that no step waits for the server."""

    def __init__(self, experiment: str, run_dir: Path, config: Mapping[str, Any], known: str | None) -> None:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(PATIENCE_S // 3))
        import mlflow

        self._client = mlflow
        mlflow.set_experiment(experiment)
        run = mlflow.start_run(run_id=known, run_name=None if known else run_dir.name)
        self._id: str = run.info.run_id
        if known is None:
            settings = [(name, str(value)[:MLFLOW_WORDS]) for name, value in flat(config)]
            for first in range(0, len(settings), MLFLOW_BATCH):
                mlflow.log_params(dict(settings[first : first + MLFLOW_BATCH]))

    @property
    def id(self) -> str:
        return self._id

    def log(self, step: int, values: Mapping[str, float]) -> None:
        known = {UNKNOWN_TO_MLFLOW.sub("_", name): value for name, value in values.items()}
        self._client.log_metrics(known, step=step, synchronous=False)

    def close(self, failed: bool) -> None:
        self._client.flush_async_logging()
        self._client.end_run("FAILED" if failed else "FINISHED")


TRACKERS: dict[str, Callable[[str, Path, Mapping[str, Any], str | None], Tracker]] = {
    "wandb": WandbTracker,
    "mlflow": MlflowTracker,
}


class Trackers:
    """All services of a run. One that fails on the way is let go of, with a line; the run goes on."""

    def __init__(self, trackers: Mapping[str, Tracker], say: Callable[[str], None]) -> None:
        self._trackers, self._say = dict(trackers), say

    def log(self, step: int, stage: str, values: Mapping[str, float]) -> None:
        """Send the numbers of a step, each named `stage/name`."""
        for name in list(self._trackers):
            self._do(name, lambda tracker: tracker.log(step, {f"{stage}/{key}": at for key, at in values.items()}))

    def close(self, failed: bool) -> None:
        for name in list(self._trackers):
            self._do(name, lambda tracker: tracker.close(failed))
        self._trackers.clear()

    def _do(self, name: str, work: Callable[[Tracker], None]) -> None:
        try:
            work(self._trackers[name])
        except Exception as error:  # clients raise what their transports do
            del self._trackers[name]
            self._say(f"{name} takes no more metrics ({first_line(error)}); the run and its own files go on without it")


def check_trackers(settings: TrackingSettings) -> None:
    """Raises UserError where a service is named whose client is not installed."""
    for name, _ in _named(settings):
        if importlib.util.find_spec(name) is None:
            raise UserError(f"tracking.{name} needs its client: pip install {CLIENTS[name]}, or leave it out.")


def open_trackers(
    settings: TrackingSettings, run_dir: Path, config: Mapping[str, Any], resumed: bool, say: Callable[[str], None]
) -> Trackers:
    """The services that a run names.

    Args:
        config: the run's settings, which they show.
        resumed: the run goes on where it was, there too.
    Raises:
        UserError: a service does not take the run, or the ids of a resumed one are damaged.
    """
    path = run_dir / IDS
    known = _known(path) if resumed and path.exists() else {}
    opened: dict[str, Tracker] = {}
    for name, where in _named(settings):
        try:
            opened[name] = TRACKERS[name](where, run_dir, config, known.get(name))
        except Exception as error:
            Trackers(opened, say).close(failed=True)
            raise UserError(
                f"{name} does not take the run ({first_line(error)}): log in there, see that its server answers, or "
                f"leave out tracking.{name}."
            ) from error
    if opened:
        with written_aside(path) as aside:
            aside.write_text(json.dumps({name: tracker.id for name, tracker in opened.items()}), encoding="utf-8")
    return Trackers(opened, say)


def _known(path: Path) -> dict[str, str]:
    """The ids that an earlier start noted. Raises UserError."""
    with reading(path, "remove it, and the run begins anew there"):
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("no object of ids")
        return found


def flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by their dotted names.

    >>> list(flat({"seed": 0, "learner": {"lr": 0.1}}))
    [('seed', 0), ('learner.lr', 0.1)]
    """
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _named(settings: TrackingSettings) -> list[tuple[str, str]]:
    return [(name, where) for name in TRACKERS if (where := getattr(settings, name)) is not None]
