"""Whole episodes, turn by turn, as the page shows them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.reporting.report.charts import finite
from cluster.reporting.report.index import DAMAGED, read_columns
from cluster.reporting.report.runs import Run
from cluster.reporting.report.words import Words
from trajectories.files import reading
from trajectories.schema import SEQUENCES, assignments_from_table, episodes_from_table, sequences_from_table
from trajectories.store import ASSIGNMENTS_FILE, EPISODES_FILE, SEQUENCES_FILE
from trajectories.types import Assignment, Episode, Turn
from trajectories.types import Sequence as TrainedSequence


def read_episodes(run: Run, rows: pa.Table, words: Words) -> Iterator[dict[str, Any]]:
    """The episodes of some rows of the index, in full. Raises UserError where a part is damaged."""
    listed = rows.to_pylist()
    for part, of_part in groupby(listed, key=lambda row: row["part"]):
        by_id = {row["id"]: row for row in of_part}
        episodes, sequences, assigned = _read_part(run, part, list(by_id))
        for episode in episodes:
            own = [sequence for sequence in sequences if sequence.episode_id == episode.episode_id]
            yield by_id[episode.episode_id] | _whole(episode, own, assigned, words)


def search(run: Run, rows: pa.Table, text: str, words: Words) -> list[bool]:
    """Whether each of these rows, all of one part, has the text in its task or in what was seen and said; upper and
    lower case are alike."""
    needle, said = text.lower(), dict.fromkeys(rows["id"].to_pylist(), "")
    file = _part(run, rows["part"][0].as_py()) / SEQUENCES_FILE
    tokens = _only(read_columns(file, SEQUENCES, ["episode_id", "token_ids"]), "episode_id", said)
    for episode, decoded in zip(
        tokens["episode_id"].to_pylist(), words.texts(tokens["token_ids"].to_pylist()), strict=True
    ):
        said[episode] += decoded.lower()
    tasks = rows["task"].to_pylist()
    return [needle in said[row] or needle in task.lower() for row, task in zip(said, tasks, strict=True)]


def _read_part(
    run: Run, part: int, ids: Sequence[str]
) -> tuple[tuple[Episode, ...], tuple[TrainedSequence, ...], dict[str, Assignment]]:
    folder = _part(run, part)
    with reading(folder, DAMAGED):
        episodes = _rows(folder / EPISODES_FILE, "episode_id", ids)
        sequences = _rows(folder / SEQUENCES_FILE, "episode_id", ids)
        assignments: tuple[Assignment, ...] = ()
        if (file := folder / ASSIGNMENTS_FILE).is_file():
            assignments = assignments_from_table(_rows(file, "sequence_id", sequences["sequence_id"].to_pylist()))
        assigned = {assignment.sequence_id: assignment for assignment in assignments}
        return episodes_from_table(episodes), sequences_from_table(sequences), assigned


def _rows(file: Path, column: str, values: Collection[str]) -> pa.Table:
    with pq.ParquetFile(file, pre_buffer=False) as opened:
        return _only(opened.read(use_threads=False), column, values)


def _only(table: pa.Table, column: str, values: Collection[str]) -> pa.Table:
    """The rows that have one of these values. Arrow's own filters would bring in threads that a report needs not."""
    wanted = set(values)
    return table.filter(pa.array([value in wanted for value in table[column].to_pylist()], pa.bool_()))


def _part(run: Run, part: int) -> Path:
    return run.folder / "trajectories" / f"part-{part:06d}"


def _whole(
    episode: Episode, sequences: Sequence[TrainedSequence], assigned: Mapping[str, Assignment], words: Words
) -> dict[str, Any]:
    turns = [turn for sequence in sequences for turn in turns_of(sequence, assigned.get(sequence.sequence_id), words)]
    first = next((assigned[one.sequence_id] for one in sequences if one.sequence_id in assigned), None)
    return {
        "member": episode.member,
        "seed": episode.seed,
        "split": episode.split,
        "stop": str(episode.stop_reason),
        "versions": [episode.version_min, episode.version_max],
        "rewards": {name: finite(value) for name, value in episode.rewards.items()},
        "rewardAdvantages": {name: finite(value) for name, value in first.reward_advantages.items()} if first else {},
        "score": finite(first.score) if first else None,
        "threshold": finite(first.threshold) if first else None,
        "seconds": {
            "generation": finite(episode.generation_seconds),
            "environment": finite(episode.environment_seconds),
            "waiting": finite(episode.waiting_seconds),
        },
        "memory": episode.memory_snapshot,
        "experience": list(episode.memory_ids),
        "error": episode.error,
        "played": turns,
    }


def turns_of(sequence: TrainedSequence, assignment: Assignment | None, words: Words) -> Iterator[dict[str, Any]]:
    """Each turn of a sequence: what was read since the turn before, and the tokens of the answer.

    Returns `{seen, tokens, logprobs, advantage, reward, valid, truncated, version, route}` a turn. `seen` are pieces
    [text, control token or not]; log-probabilities are null where nothing was sampled.
    """
    advantages = assignment.advantages if assignment else ()
    before = 0
    for at, turn in enumerate(sequence.turns):
        ids = sequence.token_ids[turn.start : turn.end].tolist()
        yield {
            "seen": words.pieces(sequence.token_ids[before : turn.start].tolist()),
            "tokens": words.tokens(ids),
            "logprobs": _logprobs(sequence, turn),
            "advantage": finite(advantages[at]) if at < len(advantages) else None,
            "reward": finite(turn.reward),
            "valid": turn.action_valid,
            "truncated": turn.truncated,
            "version": _version(sequence, turn),
            "route": str(assignment.route) if assignment else None,
        }
        before = turn.end


def _logprobs(sequence: TrainedSequence, turn: Turn) -> list[float | None]:
    trained = sequence.trained[turn.start : turn.end]
    values = np.where(trained, sequence.logprobs[turn.start : turn.end], np.nan).tolist()
    return [round(value, 3) if np.isfinite(value) else None for value in values]


def _version(sequence: TrainedSequence, turn: Turn) -> int | None:
    return next((span.version for span in sequence.version_spans if span.start <= turn.start < span.end), None)
