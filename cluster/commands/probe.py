"""`concerto probe`: score the trajectories of a corpus that need not fit in memory.

The corpus is a sequences table in Parquet, as a run writes it (`RUN/demonstrations.parquet`, `RUN/trajectories/…`).
Ray Data streams it through actors that hold the model. What is done lies in `<out>.parts/`, so a probe that was stopped
goes on where it was; the scores appear under their name when all is done.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
import ray.data
from rich.console import Console
from rich.progress import Progress

from cluster.config.sections import PlacementSettings
from cluster.inputs.model_check import check_probed_model
from cluster.runtime.session import ray_cluster
from router import tables
from router.geometry import CONCENTRATION
from router.router_settings import Metric
from trajectories.errors import UserError, first_line
from trajectories.files import reading, written_aside
from trajectories.schema import SEQUENCES, sequences_from_table
from trajectories.store import read_cache, write_parquet

METRIC = b"metric"
"""Schema metadata key of a scores table: the statistic that made its column `score`."""
BATCH = 64
NEEDED = ("sequence_id", "episode_id", "token_ids", "trained", "temperature")


@dataclass(frozen=True, slots=True)
class ProbeJob:
    """What is probed by what; parts on disk belong to exactly one job."""

    model: str
    corpus: str
    rows: int


@dataclass(frozen=True, slots=True)
class Workers:
    """The workers that probe.

    Attributes:
        count: models that probe at once; each takes a GPU if there is any.
        token_budget: tokens of one pass.
        address: Ray cluster to join; None starts a private one.
    """

    count: int = 1
    token_budget: int = 1024
    address: str | None = None


def run_probe(model: str, corpus: Path, metric: Metric, out: Path, workers: Workers, console: Console) -> pa.Table:
    """Score every trajectory of the corpus and write the scores table to `out`.

    Raises:
        UserError: no such model or file, `out` is taken, an empty corpus, a trajectory without trained tokens, or a
            gradient that is zero or not finite.
    """
    check_free(out)
    job = ProbeJob(check_probed_model(model), str(corpus.resolve()), check_corpus(corpus))
    parts = _open_parts(out, job)
    say = partial(console.print, highlight=False, markup=False)
    done = _drop_damaged(parts, say)
    if done < job.rows:
        with ray_cluster(PlacementSettings(address=workers.address)), Progress(console=console) as progress:
            task = progress.add_task(f"probe {corpus.name}", total=job.rows, completed=done)
            for part in _probe_rest(job, parts, workers):
                write_parquet(_free_part(parts), part)
                progress.advance(task, part.num_rows)
    scores = _scored(_read_parts(parts), metric)
    write_parquet(out, scores)
    shutil.rmtree(parts)
    return scores


def check_corpus(corpus: Path) -> int:
    """Read through the corpus, a piece at a time; the number of its sequences.

    Raises:
        UserError: it cannot be read, is no sequences table, is empty, or a sequence trains no token.
    """
    try:
        file = pq.ParquetFile(corpus)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"cannot read the corpus {corpus}: {first_line(error)}") from None
    if missing := [name for name in NEEDED if name not in file.schema_arrow.names]:
        raise UserError(f"{corpus} lacks the column {missing[0]!r}: give a sequences table, as runs write them")
    rows = 0
    for batch in file.iter_batches(columns=["sequence_id", "trained"]):
        rows += batch.num_rows
        for name, trained in zip(batch["sequence_id"].to_pylist(), batch["trained"], strict=True):
            if not np.any(trained.values.to_numpy(zero_copy_only=False)[1:]):
                raise UserError(f"trajectory {name} has no trained token that others precede; drop it from {corpus}")
    if not rows:
        raise UserError(f"there is nothing to probe: {corpus} holds no sequence")
    return rows


class ProbeActor:
    """Holds the model and measures batches of sequences; Ray Data runs several."""

    def __init__(self, model: str, token_budget: int) -> None:
        from learners.learner_settings import PolicySettings
        from learners.policy.distributed import device
        from learners.policy.model import load_policy

        self._policy = load_policy(PolicySettings(model=model), seed=0).to(device())
        self._token_budget = token_budget

    def __call__(self, batch: pa.Table) -> pa.Table:
        from router.probe import batched

        sequences = sequences_from_table(batch.select(SEQUENCES.names).cast(SEQUENCES))
        return tables.probed(batched(self._policy, sequences, self._token_budget), sequences)


def _probe_rest(job: ProbeJob, parts: Path, workers: Workers) -> Iterator[pa.Table]:
    """`PROBED` tables of what no part holds yet, as they become ready."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    context.execution_options.preserve_order = False
    data = ray.data.read_parquet(job.corpus)
    if done := set(_read_parts(parts)["sequence_id"].to_pylist()):
        data = data.map_batches(partial(_not_in, done), batch_format="pyarrow", batch_size=None)
    gpus = 1 if ray.cluster_resources().get("GPU") else 0
    data = data.map_batches(
        ProbeActor,
        fn_constructor_kwargs={"model": job.model, "token_budget": workers.token_budget},
        batch_format="pyarrow",
        batch_size=BATCH,
        compute=ray.data.ActorPoolStrategy(size=workers.count),
        num_gpus=gpus,
    )
    batches: Any = data.iter_batches(batch_format="pyarrow", batch_size=None)
    for batch in batches:
        yield batch.select(tables.PROBED.names).cast(tables.PROBED)


def _not_in(done: set[str], batch: pa.Table) -> pa.Table:
    return batch.filter(~pc.field("sequence_id").isin(list(done)))


def _scored(probed: pa.Table, metric: Metric) -> pa.Table:
    """The scores table: what was measured of every trajectory in order of name, and its score."""
    measured = tables.measured(probed).sort_by("trajectory")
    candidates = tables.candidates(measured, [""] * measured.num_rows)
    assert candidates.norms is not None
    scores = CONCENTRATION[metric](candidates.norms, candidates.ids).tolist()
    table = measured.append_column("score", pa.array(scores, pa.float64()))
    return table.replace_schema_metadata({METRIC: metric.encode()})


def _open_parts(out: Path, job: ProbeJob) -> Path:
    """The folder of finished parts; one without parts belongs to no probe yet.

    Raises UserError when it holds parts of another probe, or of one that it cannot name.
    """
    folder = out.with_name(f"{out.name}.parts")
    file = folder / "job.json"
    if file.exists() and any(folder.glob("*.parquet")):
        with reading(file, f"remove {folder}, or name another --out."):
            same = json.loads(file.read_text(encoding="utf-8")) == asdict(job)
        if not same:
            raise UserError(f"{folder} holds parts of another probe: remove it, or name another --out.")
    with written_aside(file) as aside:
        aside.write_text(json.dumps(asdict(job)), encoding="utf-8")
    return folder


def _free_part(folder: Path) -> Path:
    """The first that is not there: parts that were damaged leave gaps."""
    return next(path for number in count() if not (path := folder / f"{number:06d}.parquet").exists())


def _drop_damaged(folder: Path, say: Callable[[str], None]) -> int:
    """Remove the parts that cannot be read, which are probed again; how many rows the others hold."""
    rows = 0
    for path in sorted(folder.glob("*.parquet")):
        part = read_cache(path, say)
        if part is None:
            path.unlink()
        else:
            rows += part.num_rows
    return rows


def _read_parts(folder: Path) -> pa.Table:
    found = [pq.read_table(part) for part in sorted(folder.glob("*.parquet"))]
    return pa.concat_tables([tables.PROBED.empty_table(), *found])


def check_free(out: Path) -> None:
    if out.exists():
        raise UserError(f"{out} exists: remove it, or name another --out.")
