"""`concerto probe`: score the trajectories of a corpus that need not fit in memory.

The corpus is a sequences table in Parquet, as a run writes it (`RUN/demonstrations.parquet`, `RUN/trajectories/…`).
Ray Data has actors that hold the model read it; each is a learner worker, so that what is measured, how, and what it is
called in a cache are as in a run. What is done lies in `<out>.parts/`, so a probe that was stopped goes on where it
was; the scores appear under their name when all is done.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data
from rich.console import Console
from rich.progress import Progress

from cluster.config.sections import PlacementSettings
from cluster.inputs.model_check import check_probed_model
from cluster.inputs.probe_cache import ProbeCache, trajectory_key
from cluster.inputs.probe_files import METRIC, SEQUENCES_WANTED, open_corpus
from cluster.runtime.session import ray_cluster
from router import tables
from router.probe import by_trajectory, whole_batches
from router.probing import EXACT, Probing, Sample
from router.router_settings import Metric, RouterSettings
from router.scores import Concentration
from trajectories.errors import UserError
from trajectories.files import check_file, reading, written_aside
from trajectories.schema import SEQUENCES, sequences_from_table
from trajectories.store import fitted, read_cache, write_parquet

if TYPE_CHECKING:
    from learners.workers.worker import LearnerWorker

BATCH = 64
"""Sequences that are read and measured at a time, at least: those of a trajectory stay together."""


@dataclass(frozen=True, slots=True)
class ProbeJob:
    """What is probed by what, and how; parts on disk belong to exactly one job."""

    model: str
    corpus: str
    trajectories: int
    precision: str = "fast"
    sample: Sample = EXACT


@dataclass(frozen=True, slots=True)
class Workers:
    """The workers that probe.

    Attributes:
        count: models that probe at once; each takes a GPU if there is any. A single one takes all cores of its machine.
        address: Ray cluster to join; None starts a private one.
    """

    count: int = 1
    address: str | None = None


def run_probe(
    model: str, corpus: Path, settings: RouterSettings, out: Path, workers: Workers, console: Console
) -> pa.Table:
    """Score every trajectory of the corpus and write the scores table to `out`.

    Args:
        settings: metric, precision, sample and cache of the probe.

    Raises:
        UserError: no such model or file, `out` is taken, an empty corpus, a trajectory without trained tokens, or a
            gradient that is zero or not finite.
    """
    check_file(out)
    names = check_corpus(corpus)
    probing = settings.probing(alone=workers.count == 1)
    counted = len(set(names))
    job = ProbeJob(check_probed_model(model), str(corpus.resolve()), counted, settings.precision, probing.sample)
    parts = _open_parts(out, job)
    say = partial(console.print, highlight=False, markup=False)
    done = _drop_damaged(parts, say)
    if done < job.trajectories:
        with ray_cluster(PlacementSettings(address=workers.address)), Progress(console=console) as progress:
            task = progress.add_task(f"probe {corpus.name}", total=job.trajectories, completed=done)
            keep = _Cached.open(settings.cache, job, names, probing, say) if settings.cache else None
            if keep is not None and (known := keep.known(_done(parts))) is not None:
                write_parquet(_free_part(parts), known)
                progress.advance(task, known.num_rows)
            for part in _probe_rest(job, names, parts, workers, probing):
                write_parquet(_free_part(parts), part)
                if keep is not None:
                    keep.add(part)
                progress.advance(task, part.num_rows)
    scores = _scored(_read_parts(parts), settings.metric)
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


def _worker(model: str) -> LearnerWorker:
    """A learner worker with this model, alone in its process."""
    from learners.learner_settings import LearnerSettings, PolicySettings
    from learners.workers.process import keep_freed_memory, multiply_with_onednn
    from learners.workers.worker import LearnerWorker

    keep_freed_memory()
    multiply_with_onednn()
    return LearnerWorker(LearnerSettings(policy=PolicySettings(model=model)))


class ProbeActor:
    """Holds the model and measures batches of whole trajectories; Ray Data runs several."""

    def __init__(self, model: str, corpus: str, probing: Probing) -> None:
        self._worker, self._corpus, self._probing = _worker(model), CorpusRows(corpus), probing

    def __call__(self, batch: pa.Table) -> pa.Table:
        """`MEASURED` of the trajectories whose rows the column `rows` lists."""
        sequences = self._corpus.take([row for some in batch["rows"].to_pylist() for row in some])
        return tables.measured(self._worker.probe(sequences, self._probing), list(sequences_from_table(sequences)))


@dataclass(frozen=True, slots=True)
class _Cached:
    """What runs share of this probe, and the key of each trajectory in it."""

    cache: ProbeCache
    keys: Mapping[str, str]

    @classmethod
    def open(
        cls, folder: str, job: ProbeJob, names: list[str], probing: Probing, say: Callable[[str], None]
    ) -> _Cached:
        """Ask a process of the kind that probes what the probe is called, and read through the corpus."""
        named: Any = ray.remote(num_gpus=_gpus())(lambda: _worker(job.model).fingerprint(probing))
        corpus, keys = CorpusRows(job.corpus), {}
        for rows in whole_batches(names, BATCH):
            sequences = sequences_from_table(corpus.take(rows))
            for name, mine in by_trajectory([sequence.episode_id for sequence in sequences]).items():
                keys[name] = trajectory_key(sequences[row] for row in mine)
        return cls(ProbeCache(Path(folder), ray.get(named.remote()), say), keys)

    def known(self, done: Set[str]) -> pa.Table | None:
        """`MEASURED` of what the cache holds beside `done`; None where that is nothing."""
        names = [name for name, key in self.keys.items() if name not in done and key in self.cache]
        return self.cache.table(names, [self.keys[name] for name in names]) if names else None

    def add(self, measured: pa.Table) -> None:
        """Keep what was measured for others."""
        self.cache.add([self.keys[name] for name in measured["trajectory"].to_pylist()], measured)


def _gpus() -> int:
    """GPUs of one model."""
    return 1 if ray.cluster_resources().get("GPU") else 0


def _probe_rest(job: ProbeJob, names: list[str], parts: Path, workers: Workers, probing: Probing) -> Iterator[pa.Table]:
    """`MEASURED` tables of what no part holds yet, as they become ready.

    Args:
        names: the trajectory of each row of the corpus.
    """
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    context.execution_options.preserve_order = False
    done = _done(parts)
    left = [row for row, name in enumerate(names) if name not in done]
    batches = whole_batches([names[row] for row in left], BATCH)
    items = [{"rows": [left[at] for at in batch]} for batch in batches]
    if not items:
        return
    data = ray.data.from_items(items, override_num_blocks=len(items))  # a part a block
    data = data.map_batches(
        ProbeActor,
        fn_constructor_kwargs={"model": job.model, "corpus": job.corpus, "probing": probing},
        batch_format="pyarrow",
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=workers.count),
        num_gpus=_gpus(),
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


def _done(folder: Path) -> set[str]:
    """The trajectories that some part holds."""
    return set(_read_parts(folder)["trajectory"].to_pylist())


def _read_parts(folder: Path) -> pa.Table:
    found = [pq.read_table(part) for part in sorted(folder.glob("*.parquet"))]
    return pa.concat_tables([tables.MEASURED.empty_table(), *found])
