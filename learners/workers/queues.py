"""An objective's queue and steps as an Arrow file of a checkpoint: sequences as on the wire, and three columns more."""

from __future__ import annotations

from collections.abc import Sequence as Many
from pathlib import Path

import pyarrow as pa

from learners.objectives.objective import Example, Objective
from trajectories import schema

COLUMNS = ("weight", "advantages", "episode_tokens")
STEPS = b"steps"
"""Schema metadata key: learner steps that trained the objective."""


def write(objective: Objective, file: Path) -> None:
    """Write what this worker has queued."""
    examples = objective.waiting()
    table = schema.sequences_to_table(example.sequence for example in examples)
    table = table.append_column("weight", pa.array([example.weight for example in examples], pa.float64()))
    advantages = pa.array([example.advantages for example in examples], pa.list_(pa.float64()))
    table = table.append_column("advantages", advantages)
    tokens = pa.array([example.episode_tokens for example in examples], pa.int64())
    table = table.append_column("episode_tokens", tokens)
    table = table.replace_schema_metadata({STEPS: str(objective.steps)})
    with pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def read(objective: Objective, files: Many[Path], mine: Many[Path]) -> None:
    """Take back the steps, which all files tell alike, and the queues of `mine`, one behind the other."""
    examples = []
    for table in map(_table, mine):
        sequences = schema.sequences_from_table(table.drop_columns(list(COLUMNS)))
        rows = zip(sequences, *(table[name].to_pylist() for name in COLUMNS), strict=True)
        examples += [Example(row, weight, tuple(advantages), whole) for row, weight, advantages, whole in rows]
    objective.resume(int(_table(files[0]).schema.metadata[STEPS]), examples)


def _table(file: Path) -> pa.Table:
    with pa.ipc.open_file(pa.BufferReader(file.read_bytes())) as reader:
        return reader.read_all()
