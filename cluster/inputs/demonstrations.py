"""Expert demonstrations of the training panels as training sequences, built once a run and kept beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.loop.tasks import TaskMixture, index_at
from envs import make_environment
from envs.experts import Demonstration, play_expert
from trajectories.builder import DemonstratedStep, PromptSettings, add_demonstration, make_builder
from trajectories.chat import ChatTokenizer
from trajectories.errors import UserError
from trajectories.ids import PREFIX
from trajectories.schema import sequences_to_table
from trajectories.types import Sequence

FILE = "demonstrations.parquet"


def load_demonstrations(
    run_dir: Path,
    tasks: TaskMixture,
    opening: Callable[[str], tuple[Any, Any]],
    count: int,
    tokenizer: ChatTokenizer,
    prompt: PromptSettings,
    max_tokens: int,
    max_turns: int,
    seed: int,
    progress: Callable[[int, int], None],
) -> pa.Table:
    """`count` won demonstrations as a sequences table: from the run directory, or played by the experts now.

    Each panel gives an equal share, its tasks in a seeded order. Demonstrations that the expert lost, or that have
    `max_tokens` or more, which the engines refuse, are left out. Raises UserError when none remains of a panel.
    """
    path = run_dir / FILE
    if path.exists():
        return pq.read_table(path)
    sequences: list[Sequence] = []
    before = 0
    for number, panel in enumerate(tasks.panels):
        wanted = count * (number + 1) // len(tasks.panels) - count * number // len(tasks.panels)
        found: list[Sequence] = []
        solved = 0
        player = make_environment(panel.environment, *opening(panel.environment))
        tried = 0
        while solved < wanted and tried < len(panel.task_ids):
            task_id = panel.task_ids[index_at(len(panel.task_ids), seed, tried)]
            tried += 1
            played = _play(player, panel.environment, task_id, seed, tokenizer, prompt, max_turns)
            if played and all(len(sequence.token_ids) < max_tokens for sequence in played):
                found.extend(played)
                solved += 1
            progress(before + solved, count)
        before += solved
        player.close()
        if wanted and not found:
            raise UserError(
                f"the expert won none of {tried} tasks of {panel.name} within {max_turns} turns and {max_tokens} "
                "tokens: raise rollout.max_turns or rollout.engine.max_model_len, or leave out the SFT stage "
                "(schedule.sft_steps=0)."
            )
        sequences += found
    table = sequences_to_table(sequences)
    write_demonstrations(path, table)
    return table


def write_demonstrations(path: Path, table: pa.Table) -> None:
    """Written aside and renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.tmp")
    pq.write_table(table, aside, compression="zstd")
    aside.replace(path)


def _play(player, environment, task_id, seed, tokenizer, prompt, max_turns) -> tuple[Sequence, ...]:
    """The sequences of one won episode; none when the expert did not solve it."""
    demonstration = play_expert(player, task_id, seed, max_turns)
    if not demonstration or demonstration[-1][2].rewards["success"] < 1.0:
        return ()
    return demonstrated_sequences(demonstration, f"{environment}/{task_id}", tokenizer, prompt)


def demonstrated_sequences(
    demonstration: Demonstration, name: str, tokenizer: ChatTokenizer, prompt: PromptSettings
) -> tuple[Sequence, ...]:
    """A demonstration as training sequences. `name` is `environment/task`, and more where a task has several."""
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
    episode_id = PREFIX + name
    return builder.sequences(episode_id, episode_id, episode_id, temperature=1.0)
