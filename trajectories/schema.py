"""Arrow form of the wire types: `episodes`, `sequences` and `assignments` tables, and the way back.

Token columns are written and read as whole buffers, so a table of a million tokens converts without a Python loop over
tokens; `sequences_from_table` hands out read-only views into the table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from trajectories.types import Assignment, Episode, Route, Sequence, StopReason, Trajectory, Turn, VersionSpan

REWARD_NAMES = b"reward_names"
"""Schema metadata key: the names of the fixed-size reward vector, comma-separated, in order."""

EPISODES = pa.schema(
    [
        ("episode_id", pa.string()),
        ("group_id", pa.string()),
        ("member", pa.int32()),
        ("environment", pa.string()),
        ("split", pa.string()),
        ("task_id", pa.string()),
        ("seed", pa.int64()),
        ("version_min", pa.int64()),
        ("version_max", pa.int64()),
        ("stop_reason", pa.string()),
        ("success", pa.bool_()),
        ("turns", pa.int32()),
        ("generation_seconds", pa.float64()),
        ("environment_seconds", pa.float64()),
        ("waiting_seconds", pa.float64()),
        ("memory_snapshot", pa.string()),
        ("memory_ids", pa.list_(pa.string())),
        ("error", pa.string()),
    ]
)
"""One row an episode. `episodes_schema` adds the column `rewards`, whose width is the number of named rewards."""

SEQUENCES = pa.schema(
    [
        ("sequence_id", pa.string()),
        ("episode_id", pa.string()),
        ("group_id", pa.string()),
        ("token_ids", pa.list_(pa.int32())),
        ("trained", pa.list_(pa.bool_())),
        ("logprobs", pa.list_(pa.float32())),
        ("turn_starts", pa.list_(pa.int32())),
        ("turn_ends", pa.list_(pa.int32())),
        ("turn_rewards", pa.list_(pa.float64())),
        ("turn_state_hashes", pa.list_(pa.int64())),
        ("turn_actions_valid", pa.list_(pa.bool_())),
        ("turns_truncated", pa.list_(pa.bool_())),
        ("version_starts", pa.list_(pa.int32())),
        ("version_ends", pa.list_(pa.int32())),
        ("versions", pa.list_(pa.int64())),
        ("temperature", pa.float64()),
    ]
)
"""One row a training sequence; the three token columns are equally long in every row."""

ASSIGNMENTS = pa.schema(
    [
        ("sequence_id", pa.string()),
        ("route", pa.string()),
        ("advantages", pa.list_(pa.float64())),
        ("rl_weight", pa.float64()),
        ("ce_weight", pa.float64()),
        ("score", pa.float64()),
        ("threshold", pa.float64()),
        ("router_version", pa.int64()),
        ("reward_weights_version", pa.int64()),
    ]
)
"""One row a sequence. `assignments_schema` adds the column `reward_advantages`."""


def episodes_schema(reward_names: tuple[str, ...]) -> pa.Schema:
    """`EPISODES` with the reward vector as a fixed-size list; its names are in the metadata."""
    return _with_vector(EPISODES, "rewards", reward_names)


def assignments_schema(reward_names: tuple[str, ...]) -> pa.Schema:
    """`ASSIGNMENTS` with one advantage per named reward; its names are in the metadata."""
    return _with_vector(ASSIGNMENTS, "reward_advantages", reward_names)


def reward_names(table: pa.Table) -> tuple[str, ...]:
    """Names of the reward vector of an episodes or assignments table, in order."""
    names = (table.schema.metadata or {}).get(REWARD_NAMES, b"").decode()
    return tuple(names.split(",")) if names else ()


def concat_tables(tables: Iterable[pa.Table]) -> pa.Table:
    """Tables of one kind below each other. Their reward vectors may differ, as those of different environments do: the
    result names the rewards of all, and a reward that a row does not have is null there."""
    tables = list(tables)
    names = tuple(dict.fromkeys(name for table in tables for name in reward_names(table)))
    return pa.concat_tables([_widened(table, names) for table in tables])


def to_tables(trajectories: Iterable[Trajectory]) -> tuple[pa.Table, pa.Table]:
    """(episodes, sequences) of some trajectories, which must all carry the same reward names.

    Raises:
        ValueError: reward names differ between episodes.
    """
    trajectories = tuple(trajectories)
    episodes = [trajectory.episode for trajectory in trajectories]
    names = _common_names((episode.rewards for episode in episodes), "episode")
    rows = [
        {name: getattr(episode, name) for name in EPISODES.names}
        | {"stop_reason": str(episode.stop_reason), "rewards": _vector(episode.rewards, names)}
        for episode in episodes
    ]
    sequences = [sequence for trajectory in trajectories for sequence in trajectory.sequences]
    return _table_from_rows(rows, episodes_schema(names)), sequences_to_table(sequences)


def from_tables(episodes: pa.Table, sequences: pa.Table) -> tuple[Trajectory, ...]:
    """The trajectories of two tables, in the order of `episodes`.

    Raises:
        ValueError: a sequence belongs to no episode of the table.
    """
    by_episode: dict[str, list[Sequence]] = {row: [] for row in episodes["episode_id"].to_pylist()}
    for sequence in sequences_from_table(sequences):
        if sequence.episode_id not in by_episode:
            raise ValueError(
                f"sequence {sequence.sequence_id} belongs to episode {sequence.episode_id}, not in the table"
            )
        by_episode[sequence.episode_id].append(sequence)
    return tuple(
        Trajectory(episode, tuple(by_episode[episode.episode_id])) for episode in episodes_from_table(episodes)
    )


def episodes_from_table(table: pa.Table) -> tuple[Episode, ...]:
    """One Episode a row."""
    names = reward_names(table)
    episodes = []
    for row in table.to_pylist():
        rewards = _present(names, row.pop("rewards", ()))
        row |= {
            "stop_reason": StopReason(row["stop_reason"]),
            "memory_ids": tuple(row["memory_ids"]),
            "rewards": rewards,
        }
        episodes.append(Episode(**row))
    return tuple(episodes)


def sequences_to_table(sequences: Iterable[Sequence]) -> pa.Table:
    """One row a sequence; token columns are concatenated once, never walked."""
    sequences = tuple(sequences)
    turns = [sequence.turns for sequence in sequences]
    spans = [sequence.version_spans for sequence in sequences]
    columns: dict[str, Any] = {
        "sequence_id": [sequence.sequence_id for sequence in sequences],
        "episode_id": [sequence.episode_id for sequence in sequences],
        "group_id": [sequence.group_id for sequence in sequences],
        "token_ids": _lists([sequence.token_ids for sequence in sequences], np.int32),
        "trained": _lists([sequence.trained for sequence in sequences], np.bool_),
        "logprobs": _lists([sequence.logprobs for sequence in sequences], np.float32),
        "turn_starts": [[turn.start for turn in row] for row in turns],
        "turn_ends": [[turn.end for turn in row] for row in turns],
        "turn_rewards": [[turn.reward for turn in row] for row in turns],
        "turn_state_hashes": [[turn.state_hash for turn in row] for row in turns],
        "turn_actions_valid": [[turn.action_valid for turn in row] for row in turns],
        "turns_truncated": [[turn.truncated for turn in row] for row in turns],
        "version_starts": [[span.start for span in row] for row in spans],
        "version_ends": [[span.end for span in row] for row in spans],
        "versions": [[span.version for span in row] for row in spans],
        "temperature": [sequence.temperature for sequence in sequences],
    }
    return pa.table(columns, schema=SEQUENCES)


def sequences_from_table(table: pa.Table) -> tuple[Sequence, ...]:
    """One Sequence a row; token ids and log-probabilities are read-only views into the table's buffers."""
    tokens = {name: _views(table[name]) for name in ("token_ids", "trained", "logprobs")}
    short = table.drop_columns(list(tokens)).to_pylist()
    return tuple(
        Sequence(
            sequence_id=row["sequence_id"],
            episode_id=row["episode_id"],
            group_id=row["group_id"],
            token_ids=tokens["token_ids"][index],
            trained=tokens["trained"][index],
            logprobs=tokens["logprobs"][index],
            turns=tuple(
                Turn(*turn)
                for turn in zip(
                    row["turn_starts"],
                    row["turn_ends"],
                    row["turn_rewards"],
                    row["turn_state_hashes"],
                    row["turn_actions_valid"],
                    row["turns_truncated"],
                    strict=True,
                )
            ),
            version_spans=tuple(
                VersionSpan(*span)
                for span in zip(row["version_starts"], row["version_ends"], row["versions"], strict=True)
            ),
            temperature=row["temperature"],
        )
        for index, row in enumerate(short)
    )


def assignments_to_table(assignments: Iterable[Assignment]) -> pa.Table:
    """One row an assignment; all must name the same rewards.

    Raises:
        ValueError: reward names differ between assignments.
    """
    assignments = tuple(assignments)
    names = _common_names((assignment.reward_advantages for assignment in assignments), "assignment")
    rows = [
        {name: getattr(assignment, name) for name in ASSIGNMENTS.names}
        | {"route": str(assignment.route), "reward_advantages": _vector(assignment.reward_advantages, names)}
        for assignment in assignments
    ]
    return _table_from_rows(rows, assignments_schema(names))


def assignments_from_table(table: pa.Table) -> tuple[Assignment, ...]:
    """One Assignment a row."""
    names = reward_names(table)
    assignments = []
    for row in table.to_pylist():
        by_reward = _present(names, row.pop("reward_advantages", ()))
        typed = {"route": Route(row["route"]), "advantages": tuple(row["advantages"]), "reward_advantages": by_reward}
        assignments.append(Assignment(**row | typed))
    return tuple(assignments)


def _with_vector(schema: pa.Schema, column: str, names: tuple[str, ...]) -> pa.Schema:
    if not names:  # Parquet cannot hold lists of fixed size zero
        return schema
    metadata: dict[bytes | str, bytes | str] = {REWARD_NAMES: ",".join(names).encode()}
    return schema.append(pa.field(column, pa.list_(pa.float64(), len(names)))).with_metadata(metadata)


def _widened(table: pa.Table, names: tuple[str, ...]) -> pa.Table:
    """The table with a vector of these rewards, its own among them."""
    own = reward_names(table)
    if own == names:
        return table
    column = "rewards" if "stop_reason" in table.column_names else "reward_advantages"
    values = np.zeros((table.num_rows, len(names)))
    missing = np.ones(values.shape, np.bool_)
    if own:
        places = [names.index(name) for name in own]
        flat = cast(pa.FixedSizeListArray, table[column].combine_chunks()).flatten()
        values[:, places] = flat.fill_null(0.0).to_numpy(zero_copy_only=False).reshape(-1, len(own))
        missing[:, places] = flat.is_null().to_numpy(zero_copy_only=False).reshape(-1, len(own))
        table = table.drop_columns([column])
    vector = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel(), mask=missing.ravel()), len(names))
    schema = _with_vector(table.schema.remove_metadata(), column, names)
    return pa.Table.from_arrays([*table.columns, vector], schema=schema)


def _common_names(vectors: Iterable[Mapping[str, float]], kind: str) -> tuple[str, ...]:
    names: tuple[str, ...] | None = None
    for vector in vectors:
        if names is not None and set(vector) != set(names):
            raise ValueError(
                f"one {kind} has rewards {sorted(names)}, another {sorted(vector)}; write them to two tables"
            )
        names = tuple(vector) if names is None else names
    if any("," in name for name in names or ()):
        raise ValueError(f"reward names must not contain commas: {names}")
    return names or ()


def _present(names: tuple[str, ...], vector: Iterable[float | None]) -> dict[str, float]:
    """The rewards that a row has."""
    return {name: value for name, value in zip(names, vector, strict=True) if value is not None}


def _vector(values: Mapping[str, float], names: tuple[str, ...]) -> list[float]:
    return [float(values[name]) for name in names]


def _table_from_rows(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    return pa.table({name: [row[name] for row in rows] for name in schema.names}, schema=schema)


def _lists(arrays: list[npt.NDArray[Any]], dtype: npt.DTypeLike) -> pa.ListArray:
    offsets = np.zeros(len(arrays) + 1, np.int32)
    np.cumsum([len(array) for array in arrays], out=offsets[1:])
    values = np.concatenate([np.zeros(0, dtype), *arrays]).astype(dtype, copy=False)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))


def _views(column: pa.ChunkedArray) -> list[npt.NDArray[Any]]:
    views: list[npt.NDArray[Any]] = []
    for chunk in column.chunks:
        chunk = cast(pa.ListArray, chunk)
        # `values` ignores the slice, `offsets` does not: together they are right for sliced tables too.
        values = chunk.values.to_numpy(zero_copy_only=False)
        values.flags.writeable = False
        offsets = chunk.offsets.to_numpy()
        views.extend(values[start:end] for start, end in pairwise(offsets))
    return views
