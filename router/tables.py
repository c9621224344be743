"""Scores and routes as Arrow tables: what `concerto probe` and `concerto route` write, and what a run keeps."""

from __future__ import annotations

from collections.abc import Sequence as Many

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from router.arbitration import Decision
from router.errors import RouterError
from router.probe import ProbeResult
from router.scores import Candidates
from trajectories.types import Sequence

MEASURED = pa.schema(
    [
        ("trajectory", pa.string()),
        ("tokens", pa.int64()),
        ("trained_tokens", pa.int64()),
        ("loss", pa.float64()),
        ("norms", pa.list_(pa.float64())),
    ]
)
"""One row a trajectory: its length, its mean loss, and the gradient norm of each of the 7L matrices. In windowed mode,
where a trajectory has one sequence a turn, loss and norms are the means over them."""

ROUTES = pa.schema(
    [
        ("trajectory", pa.string()),
        ("route", pa.string()),
        ("rl_weight", pa.float64()),
        ("ce_weight", pa.float64()),
        ("score", pa.float64()),
        ("threshold", pa.float64()),
    ]
)
"""One row a trajectory; `score` and `threshold` are null where the policy compares nothing."""


def measured(result: ProbeResult, sequences: Many[Sequence]) -> pa.Table:
    """The `MEASURED` table of probed sequences; a trajectory's are all among them, in any order."""
    names = list(dict.fromkeys(sequence.episode_id for sequence in sequences))
    place = {name: row for row, name in enumerate(names)}
    owner = torch.tensor([place[sequence.episode_id] for sequence in sequences], dtype=torch.int64)
    ones = torch.ones(len(sequences), 1, dtype=torch.float64)
    counts = _sums(ones, owner, len(names))
    tokens = torch.tensor([[len(s.token_ids), int(s.trained[1:].sum())] for s in sequences], dtype=torch.float64)
    totals = _sums(tokens, owner, len(names)).long()
    return pa.table(
        {
            "trajectory": names,
            "tokens": totals[:, 0].tolist(),
            "trained_tokens": totals[:, 1].tolist(),
            "loss": (_sums(result.losses.double()[:, None], owner, len(names)) / counts)[:, 0].tolist(),
            "norms": (_sums(result.norms.double(), owner, len(names)) / counts).tolist(),
        },
        schema=MEASURED,
    )


def candidates(table: pa.Table, environments: Many[str], step: int = 0, pass_rates: Tensor | None = None) -> Candidates:
    """What a policy decides on, from a `MEASURED` table."""
    norms = np.stack(table["norms"].to_numpy()) if table.num_rows else np.zeros((0, 0))
    return Candidates(
        ids=tuple(table["trajectory"].to_pylist()),
        environments=tuple(environments),
        step=step,
        norms=torch.from_numpy(norms),
        losses=torch.tensor(table["loss"].to_pylist(), dtype=torch.float64),
        pass_rates=pass_rates,
    )


def routes(ids: Many[str], decisions: Many[Decision]) -> pa.Table:
    """The `ROUTES` table of decisions."""
    rows = [
        {
            "trajectory": name,
            "route": str(decision.route),
            "rl_weight": decision.rl_weight,
            "ce_weight": decision.ce_weight,
            "score": decision.score,
            "threshold": decision.threshold,
        }
        for name, decision in zip(ids, decisions, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=ROUTES)


def check_columns(table: pa.Table, schema: pa.Schema, name: str, fix: str) -> None:
    """Raises RouterError when the table lacks a column of the schema."""
    if missing := [column for column in schema.names if column not in table.column_names]:
        raise RouterError(f"{name} lacks the column {missing[0]!r}; {fix}")


def _sums(values: Tensor, owner: Tensor, count: int) -> Tensor:
    """[count, K]: sums of the rows of `values` [S, K] that belong to the same owner."""
    return values.new_zeros(count, values.shape[1]).index_add(0, owner, values)
