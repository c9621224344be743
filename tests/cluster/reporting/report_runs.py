"""Runs in folders, as small as a report needs them, with texts of the test's own choosing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cluster.config.loading import load_config
from cluster.inputs.run_folder import save_config
from cluster.reporting.evaluation import evaluation_file, write_evaluations
from tests.cluster.reporting.samples import evaluation
from tests.trajectories.samples import CHATML, byte_tokenizer
from trajectories.schema import assignments_to_table, to_tables
from trajectories.store import TrajectoryStore
from trajectories.types import Assignment, Episode, Route, StopReason, Trajectory, Turn, VersionSpan
from trajectories.types import Sequence as TrainedSequence

TOKENIZER = byte_tokenizer(CHATML)
GROUP = 2
TASKS = ("train/pick_cool-Mug-1/trial_1", "train/look_at-Book-2/trial_2")
SEEN, SAID = "You see a mug 1.", "take mug 1 from desk 1"


def write_run(
    folder: Path,
    steps: int = 3,
    seen: str = SEEN,
    said: str = SAID,
    settings: Sequence[str] = (),
    finished: bool = True,
) -> Path:
    """A run of one SFT step and `steps` GRPO steps, each of which played both tasks twice: once solved, once not.

    Its episodes are `grpo-<group>-<member>`, two a group, two turns each; it was evaluated before and after.
    """
    save_config(load_config("local", None, list(settings)), folder)
    records = [{"step": 1, "stage": "sft", "sft/loss": 0.5, "step_s": 2.0, "seconds": 1.5, "trained_tokens": 9}]
    for part in range(steps):
        write_part(folder, part, seen, said)
        records.append(record(part + 2))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in records))
    for name, solved, version in (("base", [False, False], 0), ("after_grpo", [True, False], steps + 1)):
        write_evaluations(evaluation_file(folder, name), (evaluation(solved, version=version),))
    if finished:
        TOKENIZER.save_pretrained(folder / "model")
        (folder / "model").mkdir(exist_ok=True)
        (folder / "learning_curve.svg").write_text("<svg/>")
    return folder


def record(step: int) -> dict[str, object]:
    times = {"step_s": 4.0, "seconds": 2.5, "waited_s": 1.0}
    played = {"episodes": 4, "groups": 2, "success": 0.5, "success/alfworld": 0.5, "truncated": 0.25}
    learned = {"grpo/loss": 1 / step, "grpo/entropy": 0.7, "trained_tokens": 30, "informative_groups": 0.5}
    return {"step": step, "stage": "grpo", **times, **played, **learned, "failed_episodes": 0}


def write_part(folder: Path, part: int, seen: str = SEEN, said: str = SAID) -> None:
    groups = [2 * part, 2 * part + 1]
    trajectories = [trajectory(group, member, part, seen, said) for group in groups for member in range(GROUP)]
    assignments = [
        Assignment(
            sequence_id=sequence.sequence_id,
            route=Route.GRPO if one.episode.task_id == TASKS[0] else Route.DROP,
            advantages=(1.5, -0.5) if one.episode.task_id == TASKS[0] else (),
            rl_weight=1.0,
            ce_weight=0.0,
            reward_advantages={"success": 1.0},
        )
        for one in trajectories
        for sequence in one.sequences
    ]
    episodes, sequences = to_tables(trajectories)
    TrajectoryStore(folder / "trajectories").write(part, episodes, sequences, assignments_to_table(assignments))


def trajectory(group: int, member: int, version: int, seen: str, said: str, played: int = 2) -> Trajectory:
    ids: list[int] = []
    turns, spoken = [], []
    for at in range(played):
        ids += TOKENIZER.encode("<|im_start|>", add_special_tokens=False) + TOKENIZER.encode(f"{at}: {seen}")
        answer = [*TOKENIZER.encode(said), TOKENIZER.eos_token_id]
        turns.append(Turn(len(ids), len(ids) + len(answer), float(at and not member), at, bool(at)))
        spoken += range(len(ids), len(ids) + len(answer))
        ids += answer
    trained = np.isin(np.arange(len(ids)), spoken)
    name = f"grpo-{group}-{member}"
    sequence = TrainedSequence(
        sequence_id=f"{name}-0",
        episode_id=name,
        group_id=f"grpo-{group}",
        token_ids=np.array(ids, np.int32),
        trained=trained,
        logprobs=np.where(trained, -0.25, 0).astype(np.float32),
        turns=tuple(turns),
        version_spans=(VersionSpan(0, len(ids), version),),
        temperature=1.0,
    )
    episode = Episode(
        episode_id=name,
        group_id=f"grpo-{group}",
        member=member,
        environment="alfworld",
        split="train",
        task_id=TASKS[group % 2],
        seed=7,
        version_min=version,
        version_max=version,
        stop_reason=StopReason.DONE if not member else StopReason.TURN_LIMIT,
        success=not member,
        rewards={"success": float(not member)},
        turns=played,
        generation_seconds=1.0,
        environment_seconds=0.5,
        waiting_seconds=0.0,
        memory_snapshot="3" if not member else None,
        memory_ids=("item-1",) if not member else (),
    )
    return Trajectory(episode, (sequence,))
