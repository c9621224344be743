"""`concerto data import`: recorded demonstrations of others become a file that a run can imitate.

The file is a sequences table, its tokens made by one tokenizer and one way of prompting: those are in its metadata, and
a run with others refuses it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
from rich.console import Console

from cluster.config.run import RunSettings
from cluster.inputs.demonstrations import Transcriber
from cluster.inputs.models import load_tokenizer, resolve_model
from envs import Panel
from envs.recordings import import_recordings
from trajectories.builder import PromptSettings
from trajectories.errors import UserError
from trajectories.ids import demonstrated_task
from trajectories.schema import SEQUENCES, sequences_to_table
from trajectories.store import read_parquet, write_parquet

TOKENIZER, PROMPT, OPTIONS = b"concerto.tokenizer", b"concerto.prompt", b"concerto.options"


def import_demonstrations(config: RunSettings, environment: str, source: Path, out: Path, console: Console) -> None:
    """Replay the recordings in `source` and write those that win to `out`.

    Raises:
        UserError: the file or the environment's data cannot be read, there is no model, or nothing that can be
            imitated; nothing is written.
    """
    model, rollout = resolve_model(config.policy.model), config.rollout
    transcriber = Transcriber(load_tokenizer(model, rollout.prompt), rollout.prompt, rollout.engine.max_model_len)
    data, settings = config.opening(environment)
    imported = import_recordings(environment, source, data, settings)
    episodes = [
        transcriber.sequences(won.demonstration, f"{environment}/{won.task_id}", thoughts=won.thoughts)
        for won in imported.won
    ]
    fitting = [episode for episode in episodes if transcriber.fits(episode)]
    left_out = [f"{count} {reason}" for reason, count in imported.refused.items()]
    if len(fitting) < len(episodes):
        left_out.append(f"{len(episodes) - len(fitting)} of {transcriber.longest} tokens or more")
    reasons = f" Left out: {', '.join(left_out)}." if left_out else ""
    if not fitting:
        raise UserError(f"no recording in {source} can be imported: name other --data.{reasons}")
    table = sequences_to_table(sequence for episode in fitting for sequence in episode)
    options = json.dumps({environment: settings.task_options() if settings is not None else {}})
    write_parquet(out, table.replace_schema_metadata(_metadata(transcriber) | {OPTIONS: options.encode()}))
    console.print(f"Imported {len(fitting)} recordings to {out}.{reasons}", highlight=False)


def read_recorded(
    path: Path, transcriber: Transcriber, evaluated: Sequence[Panel] = (), trained: Sequence[Panel] = ()
) -> pa.Table:
    """The sequences in a file of `import_demonstrations`.

    Args:
        transcriber: how the run makes sequences; the file must have been made alike.
    Raises:
        UserError: no such file, it was made for another tokenizer or prompt, with other options of an environment that
            is `trained`, a demonstration is too long, or it solves a task that is `evaluated`.
    """
    table = read_parquet(path, SEQUENCES, "set schedule.demonstrations_file to what `concerto data import` wrote.")
    metadata = table.schema.metadata or {}
    if TOKENIZER not in metadata:
        raise UserError(f"{path} holds no demonstrations: make such a file with `concerto data import`.")
    fits = {
        "tokenizer": metadata[TOKENIZER].decode() == transcriber.tokenizer.fingerprint,
        # Read, not compared as text: settings that are newer than the file have their defaults.
        "prompt": PromptSettings.model_validate_json(metadata[PROMPT]) == transcriber.prompt,
    }
    for what, same in fits.items():
        if not same:
            raise UserError(
                f"{path} was made for another {what}: import the recordings again with this run's policy.model and "
                "rollout.prompt."
            )
    options = json.loads(metadata.get(OPTIONS, b"{}"))
    for panel in trained:
        if options.get(panel.environment, panel.options) != panel.options:
            raise UserError(
                f"{path} was made with other options of {panel.environment}: import the recordings again with this "
                f"run's environments.{panel.environment}."
            )
    if (most := max(map(len, table["token_ids"]), default=0)) >= transcriber.longest:
        raise UserError(
            f"{path} holds a demonstration of {most} tokens: raise rollout.engine.max_model_len above that, or import "
            "the recordings again with this run's."
        )
    solved = {demonstrated_task(name) for name in table["episode_id"].to_pylist()}
    for panel in evaluated:
        if shown := solved & {(panel.environment, task) for task in panel.task_ids}:
            raise UserError(f"{path} solves task {min(shown)[1]} of {panel.name}, which this run evaluates.")
    return table


def _metadata(transcriber: Transcriber) -> dict[bytes, bytes]:
    return {
        TOKENIZER: transcriber.tokenizer.fingerprint.encode(),
        PROMPT: transcriber.prompt.model_dump_json().encode(),
    }
