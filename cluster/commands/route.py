"""`concerto route`: split a corpus by the scores that `concerto probe` gave its trajectories."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from cluster.inputs.probe_files import METRIC, open_corpus
from cluster.reporting.route_report import Against, route_report
from router import tables
from router.analysis import Column
from router.arbitration import make_arbiter
from router.router_settings import MIXES, RouterSettings
from trajectories.errors import UserError
from trajectories.files import check_file, written_aside
from trajectories.ids import PREFIX, demonstrated_task
from trajectories.store import read_parquet, write_parquet


@dataclass(frozen=True, slots=True)
class Report:
    """A page about the split.

    Attributes:
        out: the HTML file, or the folder in which it is `report.html`.
        against: scores of the same corpus by another model.
        corpus: the sequences that were scored, whose turns are counted.
    """

    out: Path
    against: Path | None = None
    corpus: Path | None = None

    @property
    def file(self) -> Path:
        return self.out if self.out.suffix == ".html" else self.out / "report.html"


def run_route(scores: Path, router: RouterSettings, seed: int, out: Path, report: Report | None = None) -> pa.Table:
    """Split a scores table by a staged policy and write the routes table to `out`, and a page about it if asked for.

    Args:
        router: the policy, its share and its thresholds; the metric is that of the scores. Trajectories that are no
            demonstrations belong to no environment and share one threshold.
    Raises:
        UserError: no such file, no scores table, too few rows, `out` is taken, or a policy that splits nothing or needs
            more than scores.
    """
    if not router.active or router.policy in MIXES:
        raise UserError(f"--policy {router.policy} splits no corpus: choose median_split or another policy for stages.")
    check_file(out)
    if report is not None:
        check_file(report.file, "--report")
    table, routes = _split(scores, router, seed)
    if report is not None:
        against = None
        if report.against is not None:
            against = Against(report.against.name, _split(report.against, router, seed)[1])
        turns = _turns(report.corpus) if report.corpus is not None else None
        page = route_report(table, routes, turns, against)
        with written_aside(report.file) as aside:
            aside.write_text(page, encoding="utf-8")
    write_parquet(out, routes)
    return routes


def _split(scores: Path, router: RouterSettings, seed: int) -> tuple[pa.Table, pa.Table]:
    """The scores table, and its routes."""
    table = read_parquet(scores, tables.MEASURED, "give a file that `concerto probe` wrote.")
    metric: Any = (table.schema.metadata or {}).get(METRIC, b"gini").decode()
    candidates = tables.candidates(table, [_environment(name) for name in table["trajectory"].to_pylist()])
    decisions = make_arbiter(router.model_copy(update={"metric": metric}), seed).decide(candidates)
    return table, tables.routes(candidates.ids, decisions)


def _turns(corpus: Path) -> Column:
    """Turns of each trajectory of a sequences table."""
    table = open_corpus(corpus).read(columns=["episode_id", "turn_starts"])
    turns: Counter[str] = Counter()
    for name, starts in zip(table["episode_id"].to_pylist(), table["turn_starts"].to_pylist(), strict=True):
        turns[name] += len(starts)
    return dict(turns)


def _environment(trajectory: str) -> str:
    return demonstrated_task(trajectory)[0] if trajectory.startswith(PREFIX) else ""
