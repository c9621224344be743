"""Scores and routes as Arrow tables: what `concerto probe` and `concerto route` write, and what a run keeps."""

from __future__ import annotations

from collections.abc import Sequence as Many

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from router.arbitration import Decision
from router.probe import ProbeResult
from router.scores import Candidates
from trajectories.errors import UserError
from trajectories.types import Sequence

PROBED = pa.schema(
    [
        ("sequence_id", pa.string()),
        ("trajectory", pa.string()),
        ("tokens", pa.int64()),
        ("trained_tokens", pa.int64()),
        ("loss", pa.float64()),
        ("norms", pa.list_(pa.float64())),
    ]
)
"""One row a sequence: its trajectory, its length, its mean loss, and the gradient norm of each of the 7L matrices."""

MEASURED = pa.schema([field for field in PROBED if field.name != "sequence_id"])
"""One row a trajectory. In windowed mode, where it has one sequence a turn, loss and norms are the means over them."""

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


def probed(result: ProbeResult, sequences: Many[Sequence]) -> pa.Table:
    """The `PROBED` table of a probe."""
    return pa.table(
        {
            "sequence_id": list(result.sequence_ids),
            "trajectory": [sequence.episode_id for sequence in sequences],
            "tokens": [len(sequence.token_ids) for sequence in sequences],
            "trained_tokens": [int(sequence.trained[1:].sum()) for sequence in sequences],
            "loss": result.losses.double().tolist(),
            "norms": result.norms.double().tolist(),
        },
        schema=PROBED,
    )


def measured(table: pa.Table) -> pa.Table:
    """The `MEASURED` table of a `PROBED` one; a trajectory's sequences are all in it, in any order."""
    owners = table["trajectory"].to_pylist()
    names = list(dict.fromkeys(owners))
    place = {name: row for row, name in enumerate(names)}
    owner = np.array([place[name] for name in owners], np.int64)
    counts = np.bincount(owner, minlength=len(names))[:, None]
    sums = {column: _sums(values, owner, len(names)) for column, values in _matrices(table).items()}
    return pa.table(
        {
            "trajectory": names,
            "tokens": sums["tokens"][:, 0].astype(np.int64),
            "trained_tokens": sums["trained_tokens"][:, 0].astype(np.int64),
            "loss": (sums["loss"] / counts)[:, 0],
            "norms": list(sums["norms"] / counts),
        },
        schema=MEASURED,
    )


def candidates(table: pa.Table, environments: Many[str]) -> Candidates:
    """What a policy decides on, from a `MEASURED` table."""
    return Candidates(
        ids=tuple(table["trajectory"].to_pylist()),
        environments=tuple(environments),
        norms=torch.from_numpy(_matrices(table)["norms"]),
        losses=torch.tensor(table["loss"].to_pylist(), dtype=torch.float64),
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
    """Raises UserError when the table lacks a column of the schema."""
    if missing := [column for column in schema.names if column not in table.column_names]:
        raise UserError(f"{name} lacks the column {missing[0]!r}; {fix}")


def _matrices(table: pa.Table) -> dict[str, npt.NDArray[np.float64]]:
    """The numeric columns as [rows, width]."""
    flat = {name: table[name].to_numpy().astype(np.float64)[:, None] for name in ("tokens", "trained_tokens", "loss")}
    return flat | {"norms": np.stack(table["norms"].to_numpy()) if table.num_rows else np.zeros((0, 0))}


def _sums(values: npt.NDArray[np.float64], owner: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.float64]:
    """[count, width]: sums of the rows of `values` that belong to the same owner."""
    sums = np.zeros((count, values.shape[1]))
    np.add.at(sums, owner, values)
    return sums
