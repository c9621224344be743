"""What concentration goes along with, and how stable its order is over models.

    concerto probe --model A --corpus CORPUS --out a.parquet        # and b.parquet by another model
    python -m benchmarks.ranking a.parquet b.parquet [--runs RUN ...]

Takes scores of `concerto probe`, or `measured.parquet` of runs. Pass rates are the shares of a task's rollouts in the
given runs that succeeded. It also says how the order changes when the bias of the matrices' shapes is taken out of the
norms (norm / sqrt(entries), the router's metric `gini_per_entry`).
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from router.analysis import Column, agreement, goes_along, rank_stability, spearman
from router.geometry import CONCENTRATION, per_entry
from trajectories.ids import demonstration_id
from trajectories.store import TrajectoryStore
from trajectories.types import StopReason


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scores", type=Path, nargs="+")
    parser.add_argument("--runs", type=Path, nargs="*", default=[])
    parser.add_argument("--metric", choices=list(CONCENTRATION), default="gini")
    options = parser.parse_args()
    tables = {str(path): pq.read_table(path) for path in options.scores}
    rates = _pass_rates(options.runs)
    scores = {name: _concentration(table, options.metric) for name, table in tables.items()}
    for name, table in tables.items():
        others = {
            "loss": _column(table, "loss"),
            "tokens": _column(table, "tokens"),
            "gradient norm": _named(table, np.linalg.norm(_norms(table), axis=1)),
        }
        if len(set(rates) & set(scores[name])) >= 3:
            others["pass rate"] = rates
        values = list(scores[name].values())
        print(f"{name}: {len(values)} trajectories, {options.metric} {min(values):.3f} to {max(values):.3f}")
        print(
            "  rank correlation with " + ", ".join(f"{k} {v:+.2f}" for k, v in goes_along(scores[name], others).items())
        )
        norms = per_entry(_norms(table), table["entries"][0].as_py())
        plain = _named(table, CONCENTRATION[options.metric](norms, table["trajectory"].to_pylist()).numpy())
        same = agreement(scores[name], plain)
        print(f"  without the bias of shapes: {spearman(scores[name], plain):+.2f}, the same half for {same:.0%}")
    for (first, second), correlation in rank_stability(scores).items():
        same = agreement(scores[first], scores[second])
        print(f"{first} and {second}: rank correlation {correlation:+.2f}, the same half for {same:.0%}")


def _concentration(table: pa.Table, metric: str) -> Column:
    return _named(table, CONCENTRATION[metric](_norms(table), table["trajectory"].to_pylist()).numpy())


def _norms(table: pa.Table) -> np.ndarray:
    return np.stack(table["norms"].to_numpy())


def _column(table: pa.Table, name: str) -> Column:
    return _named(table, table[name].to_numpy())


def _named(table: pa.Table, values: np.ndarray) -> Column:
    return dict(zip(table["trajectory"].to_pylist(), values.tolist(), strict=True))


def _pass_rates(runs: list[Path]) -> Column:
    played: dict[str, list[bool]] = defaultdict(list)
    for run in runs:
        store = TrajectoryStore(run / "trajectories")
        for number in range(len(store)):
            columns = ["environment", "task_id", "success", "stop_reason"]
            for row in store.read(number)[0].select(columns).to_pylist():
                if row["stop_reason"] == StopReason.ERROR:
                    continue
                played[demonstration_id(row["environment"], row["task_id"])].append(row["success"])
    return {name: sum(wins) / len(wins) for name, wins in played.items()}


if __name__ == "__main__":
    main()
