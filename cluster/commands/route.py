"""`concerto route`: split a corpus by the scores that `concerto probe` gave its trajectories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from cluster.inputs.probe_files import METRIC
from router import tables
from router.arbitration import make_arbiter
from router.router_settings import MIXES, RouterSettings
from trajectories.errors import UserError
from trajectories.files import check_file
from trajectories.ids import PREFIX, demonstrated_task
from trajectories.store import read_parquet, write_parquet


def run_route(scores: Path, router: RouterSettings, seed: int, out: Path) -> pa.Table:
    """Split a scores table by a staged policy and write the routes table to `out`.

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
    table = read_parquet(scores, tables.MEASURED, "give a file that `concerto probe` wrote.")
    metric: Any = (table.schema.metadata or {}).get(METRIC, b"gini").decode()
    candidates = tables.candidates(table, [_environment(name) for name in table["trajectory"].to_pylist()])
    decisions = make_arbiter(router.model_copy(update={"metric": metric}), seed).decide(candidates)
    routes = tables.routes(candidates.ids, decisions)
    write_parquet(out, routes)
    return routes


def _environment(trajectory: str) -> str:
    return demonstrated_task(trajectory)[0] if trajectory.startswith(PREFIX) else ""
