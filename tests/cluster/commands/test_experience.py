"""A run with experience on real Ray and real vLLM: what prompts carry, what is recorded, and what it is worth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cluster.inputs.experience_plan import planned_types
from cluster.inputs.models import TINY, load_tokenizer, resolve_model
from cluster.reporting.evaluation import run_evaluations
from cluster.reporting.metrics import read_metrics
from envs import training_panel
from experience.memory import Memory
from experience.records import Experience, Item
from tests.cluster.runs import RunProcess, train_arguments
from tests.experience.scripted import WordEmbedder
from trajectories.builder import PromptSettings
from trajectories.schema import from_tables
from trajectories.store import TrajectoryStore

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

TEXTS = ("Look at every shelf.", "Open what is closed.", "Take what the task names.")
STEPS = {
    "schedule__sft_steps": 0,
    "schedule__grpo_steps": 2,
    "schedule__group_size": 4,
    "evaluation__stages": False,
    "evaluation__limit": 1,
    "experience__enabled": True,
    "experience__pairs": 0.5,
}


def planted(path: Path) -> Memory:
    memory = Memory.open(str(path), WordEmbedder())
    for known in planned_types([training_panel("alfworld")]):
        items = [Item.of(known.id, text) for text in TEXTS]
        memory.write(replace(known, experience=Experience(tuple(items[:1]), tuple(items[1:]))))
    return memory


def test_prompts_carry_the_block_columns_record_it_and_pairs_measure_it(tmp_path):
    memory, run_dir = planted(tmp_path / "memory"), tmp_path / "run"
    arguments = train_arguments(run_dir, Path(TINY), experience__memory=tmp_path / "memory", **STEPS)
    with RunProcess(arguments, tmp_path / "log") as run:
        assert run.wait() == 0, run.log()
        run.assert_nothing_left()
    chat, told, plain = load_tokenizer(resolve_model(TINY), PromptSettings()), 0, 0
    store = TrajectoryStore(run_dir / "trajectories")
    for number in range(len(store)):
        for trajectory in from_tables(*store.read(number)[:2]):
            episode = trajectory.episode
            texts = [chat.decode(sequence.token_ids.tolist()) for sequence in trajectory.sequences]
            if episode.memory_ids:
                told += 1
                assert episode.memory_snapshot == str(memory.snapshot)
                assert all(text.count("<experience>") == 1 for text in texts)
            else:
                plain += 1
                assert episode.memory_snapshot is None and not any("<experience>" in text for text in texts)
    assert told == plain == 8, "two steps of two groups of four"
    (last,) = read_metrics(run_dir)[-1:]
    assert last["experience/off"] == last["experience/unheard"] == 0 and last["experience/items"] > 0
    types = planned_types([training_panel("alfworld")])
    pairs = [pair for known in types for pair in Memory.inspect(str(tmp_path / "memory")).pairs_of(known.id)]
    assert len(pairs) >= 4 and -1 <= last["experience/utility_low"] <= last["experience/utility_high"] <= 1
    (evaluations,) = run_evaluations(run_dir).values()
    assert evaluations[0].memory_snapshot == memory.snapshot and evaluations[0].greedy_without is not None
