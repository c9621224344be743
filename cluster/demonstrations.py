"""Expert demonstrations of the training panel as training sequences, built once a run and kept beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.errors import UserError
from cluster.settings import EnvironmentSettings
from cluster.tasks import index_at
from envs import Panel, make_environment
from envs.demonstrations import play_expert
from trajectories.builder import DemonstratedStep, PromptConfig, add_demonstration, make_builder
from trajectories.chat import ChatTokenizer
from trajectories.schema import sequences_to_table
from trajectories.types import Sequence

FILE = "demonstrations.parquet"
PREFIX = "demonstration/"


def demonstrated_task(episode_id: str) -> str:
    """The task that a demonstration solves, by its episode's id."""
    return episode_id.removeprefix(PREFIX)


def load_demonstrations(
    run_dir: Path,
    environment: EnvironmentSettings,
    panel: Panel,
    count: int,
    tokenizer: ChatTokenizer,
    prompt: PromptConfig,
    max_tokens: int,
    max_turns: int,
    seed: int,
    progress: Callable[[int, int], None],
) -> pa.Table:
    """`count` won demonstrations as a sequences table: from the run directory, or played by the expert now.

    Tasks come in a seeded order. Demonstrations that the expert lost, or that are longer than `max_tokens`, are left
    out. Raises UserError when none remains.
    """
    path = run_dir / FILE
    if path.exists():
        return pq.read_table(path)
    player = make_environment(environment.name, environment.data)
    sequences: list[Sequence] = []
    tried = 0
    for tried in range(len(panel.task_ids)):
        if len(sequences) >= count:
            break
        task_id = panel.task_ids[index_at(len(panel.task_ids), seed, tried)]
        played = _play(player, task_id, seed, tokenizer, prompt, max_turns)
        if played and all(len(sequence.token_ids) <= max_tokens for sequence in played):
            sequences.extend(played)
        progress(min(len(sequences), count), count)
    player.close()
    if not sequences:
        raise UserError(
            f"the expert won none of {tried} tasks of {panel.name} within {max_turns} turns and {max_tokens} tokens: "
            "raise rollout.max_turns or rollout.max_model_len, or leave out the SFT stage (schedule.sft_steps=0)."
        )
    table = sequences_to_table(sequences)
    aside = path.with_suffix(".tmp")
    pq.write_table(table, aside, compression="zstd")
    aside.replace(path)
    return table


def _play(player, task_id, seed, tokenizer, prompt, max_turns) -> tuple[Sequence, ...]:
    """The sequences of one won episode; none when the expert did not solve it."""
    demonstration = play_expert(player, task_id, seed, max_turns)
    if not demonstration or demonstration[-1][2].rewards["success"] < 1.0:
        return ()
    builder = make_builder(tokenizer, prompt)
    steps = [
        DemonstratedStep(
            action=action,
            observation=result.observation,
            reward=result.rewards["success"],
            state_hash=result.info["state_hash"],
            action_valid=result.info["action_valid"],
        )
        for _, action, result in demonstration
    ]
    add_demonstration(builder, tokenizer, demonstration[0][0], steps)
    episode_id = f"{PREFIX}{task_id}"
    return builder.sequences(episode_id, episode_id, episode_id, temperature=1.0)
