"""`concerto probe`: score the trajectories of a corpus that need not fit in memory.

The corpus is a sequences table in Parquet, as a run writes it (`RUN/demonstrations.parquet`, `RUN/trajectories/…`).
Ray Data has actors that hold the model read it. What is done lies in `<out>.parts/`, so a probe that was stopped
goes on where it was; the scores appear under their name when all is done.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data
from rich.console import Console
from rich.progress import Progress

from cluster.config.sections import PlacementSettings
from cluster.inputs.model_check import check_probed_model
from cluster.inputs.probe_files import METRIC, SEQUENCES_WANTED, open_corpus
from cluster.runtime.session import ray_cluster
from router import tables
from router.probe import whole_batches
from router.router_settings import Metric
from router.scores import Concentration
from trajectories.errors import UserError
from trajectories.files import check_file, reading, written_aside
from trajectories.schema import SEQUENCES, sequences_from_table
from trajectories.store import fitted, read_cache, write_parquet

BATCH = 64
"""Sequences that are read and measured at a time, at least: those of a trajectory stay together."""


@dataclass(frozen=True, slots=True)
class ProbeJob:
    """What is probed by what; parts on disk belong to exactly one job."""

    model: str
    corpus: str
    trajectories: int


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
    check_file(out)
    names = check_corpus(corpus)
    job = ProbeJob(check_probed_model(model), str(corpus.resolve()), len(set(names)))
    parts = _open_parts(out, job)
    say = partial(console.print, highlight=False, markup=False)
    done = _drop_damaged(parts, say)
    if done < job.trajectories:
        with ray_cluster(PlacementSettings(address=workers.address)), Progress(console=console) as progress:
            task = progress.add_task(f"probe {corpus.name}", total=job.trajectories, completed=done)
            for part in _probe_rest(job, names, parts, workers):
                write_parquet(_free_part(parts), part)
                progress.advance(task, part.num_rows)
    scores = _scored(_read_parts(parts), metric)
    write_parquet(out, scores)
    shutil.rmtree(parts)
    return scores


def check_corpus(corpus: Path) -> list[str]:
    """Read through the corpus, a piece at a time; the trajectory of each of its sequences.

    Raises:
        UserError: it cannot be read, is no sequences table, is empty, or a sequence trains no token.
    """
    file = open_corpus(corpus)
    looked_at = pa.schema([SEQUENCES.field(name) for name in ("sequence_id", "episode_id", "trained")])
    names: list[str] = []
    for rows in file.iter_batches(columns=looked_at.names):
        batch = fitted(pa.Table.from_batches([rows]), looked_at, corpus, SEQUENCES_WANTED)
        names += batch["episode_id"].to_pylist()
        for name, trained in zip(batch["sequence_id"].to_pylist(), batch["trained"], strict=True):
            if not np.any(trained.values.to_numpy(zero_copy_only=False)[1:]):
                raise UserError(f"trajectory {name} has no trained token that others precede; drop it from {corpus}")
    if not names:
        raise UserError(f"there is nothing to probe: {corpus} holds no sequence")
    return names


class CorpusRows:
    """Sequences of a corpus by row; the row group that was read last stays in memory, since the next is likely in
    it."""

    def __init__(self, corpus: str) -> None:
        self._file = pq.ParquetFile(corpus)
        counts = [self._file.metadata.row_group(group).num_rows for group in range(self._file.num_row_groups)]
        self._starts = np.cumsum([0, *counts])
        self._group, self._table = -1, SEQUENCES.empty_table()

    def take(self, rows: Sequence[int]) -> pa.Table:
        """Some of the sequences, by number of row."""
        parts = []
        groups = np.searchsorted(self._starts, rows, side="right") - 1
        for group in np.unique(groups).tolist():
            if group != self._group:
                table = self._file.read_row_group(group, columns=SEQUENCES.names)
                self._group, self._table = group, table.select(SEQUENCES.names).cast(SEQUENCES)
            parts.append(self._table.take(np.asarray(rows)[groups == group] - self._starts[group]))
        return pa.concat_tables(parts)


class ProbeActor:
    """Holds the model and measures batches of whole trajectories; Ray Data runs several."""

    def __init__(self, model: str, corpus: str, token_budget: int) -> None:
        from learners.learner_settings import PolicySettings
        from learners.policy.distributed import device
        from learners.policy.loading import load_policy

        self._policy = load_policy(PolicySettings(model=model), 0, device())
        self._corpus, self._token_budget = CorpusRows(corpus), token_budget

    def __call__(self, batch: pa.Table) -> pa.Table:
        """`MEASURED` of the trajectories whose rows the column `rows` lists."""
        from router.probe import batched

        rows = [row for some in batch["rows"].to_pylist() for row in some]
        sequences = list(sequences_from_table(self._corpus.take(rows)))
        return tables.measured(batched(self._policy, sequences, self._token_budget), sequences)


def _probe_rest(job: ProbeJob, names: list[str], parts: Path, workers: Workers) -> Iterator[pa.Table]:
    """`MEASURED` tables of what no part holds yet, as they become ready.

    Args:
        names: the trajectory of each row of the corpus.
    """
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    context.execution_options.preserve_order = False
    done = set(_read_parts(parts)["trajectory"].to_pylist())
    left = [row for row, name in enumerate(names) if name not in done]
    batches = whole_batches([names[row] for row in left], BATCH)
    items = [{"rows": [left[at] for at in batch]} for batch in batches]
    data = ray.data.from_items(items, override_num_blocks=len(items))  # a part a block
    gpus = 1 if ray.cluster_resources().get("GPU") else 0
    data = data.map_batches(
        ProbeActor,
        fn_constructor_kwargs={"model": job.model, "corpus": job.corpus, "token_budget": workers.token_budget},
        batch_format="pyarrow",
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=workers.count),
        num_gpus=gpus,
    )
    found: Any = data.iter_batches(batch_format="pyarrow", batch_size=None)
    for table in found:
        yield table.select(tables.MEASURED.names).cast(tables.MEASURED)


def _scored(measured: pa.Table, metric: Metric) -> pa.Table:
    """The scores table: what was measured of every trajectory in order of name, and its score."""
    measured = measured.sort_by("trajectory")
    scores = Concentration.named(metric)(tables.candidates(measured, [""] * measured.num_rows)).tolist()
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
    return pa.concat_tables([tables.MEASURED.empty_table(), *found])
