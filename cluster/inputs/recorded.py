"""`concerto data import`: recorded demonstrations of others become a file that a run can imitate.

The file is a sequences table, its tokens made by one tokenizer and one way of prompting: those are in its metadata, and
a run with others refuses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from cluster.config.run import RunSettings
from cluster.inputs.demonstrations import demonstrated_sequences, write_demonstrations
from cluster.inputs.models import load_tokenizer, resolve_model
from envs import Panel
from envs.recordings import import_recordings
from trajectories.builder import PromptSettings
from trajectories.chat import ChatTokenizer
from trajectories.errors import UserError, first_line
from trajectories.ids import demonstrated_task
from trajectories.schema import SEQUENCES, sequences_to_table

TOKENIZER, PROMPT = b"concerto.tokenizer", b"concerto.prompt"


def import_demonstrations(config: RunSettings, environment: str, source: Path, out: Path, console: Console) -> None:
    """Replay the recordings in `source` and write those that win to `out`.

    Raises:
        UserError: the file or the environment's data cannot be read.
        UserError: no model, or nothing that can be imitated; nothing is written.
    """
    tokenizer = load_tokenizer(resolve_model(config.policy.model), config.rollout.prompt)
    prompt, longest = config.rollout.prompt, config.rollout.engine.max_model_len
    imported = import_recordings(environment, source, *config.opening(environment))
    episodes = [
        demonstrated_sequences(demonstration, f"{environment}/{task}", tokenizer, prompt)
        for task, demonstration in imported.won
    ]
    fitting = [episode for episode in episodes if all(len(sequence.token_ids) < longest for sequence in episode)]
    left_out = [f"{count} {reason}" for reason, count in imported.refused.items()]
    if len(fitting) < len(episodes):
        left_out.append(f"{len(episodes) - len(fitting)} of {longest} tokens or more")
    reasons = f" Left out: {', '.join(left_out)}." if left_out else ""
    if not fitting:
        raise UserError(f"no recording in {source} can be imported: name other --data.{reasons}")
    table = sequences_to_table(sequence for episode in fitting for sequence in episode)
    write_demonstrations(out, table.replace_schema_metadata(_metadata(tokenizer, prompt)))
    console.print(f"Imported {len(fitting)} recordings to {out}.{reasons}", highlight=False)


def read_recorded(
    path: Path, tokenizer: ChatTokenizer, prompt: PromptSettings, longest: int, evaluated: Sequence[Panel] = ()
) -> pa.Table:
    """The sequences in a file of `import_demonstrations`.

    Args:
        longest: tokens that an engine holds.
    Raises:
        UserError: no such file, it was made for another tokenizer or prompt, a demonstration is too long, or it solves
            a task that is `evaluated`.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(
            f"schedule.demonstrations_file={path} cannot be read ({first_line(error)}): make one with "
            "`concerto data import`."
        ) from None
    metadata = table.schema.metadata or {}
    if table.schema.names != SEQUENCES.names or TOKENIZER not in metadata:
        raise UserError(f"{path} holds no demonstrations: make such a file with `concerto data import`.")
    for key, expected in _metadata(tokenizer, prompt).items():
        if metadata[key] != expected:
            raise UserError(
                f"{path} was made for another {key.decode().rpartition('.')[2]}: import the recordings again with this "
                "run's policy.model and rollout.prompt."
            )
    if (most := max(map(len, table["token_ids"]), default=0)) >= longest:
        raise UserError(
            f"{path} holds a demonstration of {most} tokens: raise rollout.engine.max_model_len above that, or import "
            "the recordings again with this run's."
        )
    solved = {demonstrated_task(name) for name in table["episode_id"].to_pylist()}
    for panel in evaluated:
        if shown := solved & {(panel.environment, task) for task in panel.task_ids}:
            raise UserError(f"{path} solves task {min(shown)[1]} of {panel.name}, which this run evaluates.")
    return table


def _metadata(tokenizer: ChatTokenizer, prompt: PromptSettings) -> dict[bytes, bytes]:
    return {TOKENIZER: tokenizer.fingerprint.encode(), PROMPT: prompt.model_dump_json().encode()}
