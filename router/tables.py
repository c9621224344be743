"""Scores and routes as Arrow tables: what `concerto probe` and `concerto route` write, and what a run keeps."""

from __future__ import annotations

from collections.abc import Sequence as Many

import numpy as np
import pyarrow as pa
import torch

from router.arbitration import Decision
from router.probe import ProbeResult, by_trajectory
from router.scores import Candidates
from trajectories.batch import trained_tokens
from trajectories.types import Sequence

MEASURED = pa.schema(
    [
        ("trajectory", pa.string()),
        ("tokens", pa.int64()),
        ("trained_tokens", pa.int64()),
        ("loss", pa.float64()),
        ("norms", pa.list_(pa.float64())),
        ("entries", pa.list_(pa.int64())),
    ]
)
"""One row a trajectory: its tokens, its mean loss over the trained ones, the norm of its mean gradient in each of the
7L matrices, and how many entries these have."""

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
    """The `MEASURED` table of a probe of these sequences, in their order."""
    owned = by_trajectory([sequence.episode_id for sequence in sequences])
    lengths = np.array([len(sequence.token_ids) for sequence in sequences], np.int64)
    trained = np.array([trained_tokens(sequence) for sequence in sequences], np.int64)
    losses = result.losses.double().numpy()
    return pa.table(
        {
            "trajectory": list(owned),
            "tokens": [int(lengths[rows].sum()) for rows in owned.values()],
            "trained_tokens": [int(trained[rows].sum()) for rows in owned.values()],
            "loss": [float(np.average(losses[rows], weights=trained[rows])) for rows in owned.values()],
            "norms": result.norms.double().tolist(),
            "entries": [list(result.entries)] * len(owned),
        },
        schema=MEASURED,
    )


def candidates(table: pa.Table, environments: Many[str]) -> Candidates:
    """What a policy decides on, from a `MEASURED` table."""
    norms = np.stack(table["norms"].to_numpy()) if table.num_rows else np.zeros((0, 0))
    entries = table["entries"][0].as_py() if table.num_rows else None
    return Candidates(
        ids=tuple(table["trajectory"].to_pylist()),
        environments=tuple(environments),
        norms=torch.from_numpy(norms),
        entries=tuple(entries) if entries is not None else None,
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
