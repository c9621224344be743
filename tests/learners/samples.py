"""Very small random models and sequences for the tests of this package."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from learners.learner_settings import (
    GRPOSettings,
    LearnerSettings,
    LoraSettings,
    OptimizerSettings,
    PolicySettings,
    SFTSettings,
)
from learners.policy.shard import PolicyShard
from learners.workers.worker import LearnerWorker
from tests.trajectories.samples import CHATML, byte_tokenizer
from trajectories import schema
from trajectories.types import Assignment, Route, Sequence, Turn

SIZES = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 128,
}


def write_model(directory: Path, tied: bool = False) -> Path:
    """A Qwen3 (untied) or Qwen2 (tied) of 40,000 parameters with its tokenizer."""
    torch.manual_seed(0)
    model: PreTrainedModel
    if tied:
        model = Qwen2ForCausalLM(Qwen2Config(**SIZES, tie_word_embeddings=True))  # pyright: ignore[reportArgumentType]
    else:
        model = Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=16, tie_word_embeddings=False))  # pyright: ignore
    model.save_pretrained(directory)
    byte_tokenizer(CHATML).save_pretrained(directory)
    return directory


def learner_settings(
    model: Path,
    *,
    lora: bool = False,
    token_budget: int = 64,
    sft: SFTSettings | None = None,
    grpo: GRPOSettings | None = None,
) -> LearnerSettings:
    return LearnerSettings(
        policy=PolicySettings(model=str(model), lora=LoraSettings(rank=4, alpha=8) if lora else None),
        optimizer=OptimizerSettings(lr=1e-2, weight_decay=0.1, warmup_steps=2, token_budget=token_budget),
        sft=sft or SFTSettings(),
        grpo=grpo or GRPOSettings(),
    )


def make_sequences(count: int, seed: int = 0, temperature: float = 0.7) -> list[Sequence]:
    """5 to 30 tokens each, half of them trained, with behaviour log-probabilities near those of a fresh model."""
    rng = np.random.default_rng(seed)
    sequences = []
    for index in range(count):
        length = int(rng.integers(5, 31))
        trained = rng.random(length) < 0.5
        trained[:2] = False, True
        sequences.append(
            Sequence(
                sequence_id=f"s{index}",
                episode_id=f"e{index}",
                group_id=f"g{index // 4}",
                token_ids=rng.integers(3, 320, length).astype(np.int32),
                trained=trained,
                logprobs=np.where(trained, rng.normal(-np.log(320), 0.2, length), 0).astype(np.float32),
                turns=(Turn(1, length, 0.0, index, True),),
                version_spans=(),
                temperature=temperature,
            )
        )
    return sequences


def begun_alike(shared: list[int], own: list[int], seed: int = 0) -> list[Sequence]:
    """A group whose members each begin with so many tokens of the one before, none of the first, and go on with so many
    of their own. As in `make_sequences` half of all tokens are trained, also where members are alike."""
    rng = np.random.default_rng(seed)
    sequences: list[Sequence] = []
    tokens, trained = np.zeros(0, np.int32), np.zeros(0, bool)
    for number, (start, more) in enumerate(zip([0, *shared], own, strict=True)):
        tokens = np.concatenate([tokens[:start], rng.integers(3, 320, more, np.int32)])
        trained = np.concatenate([trained[:start], rng.random(more) < 0.5])
        sequences.append(
            Sequence(
                sequence_id=f"{seed}-{number}",
                episode_id=f"{seed}-{number}",
                group_id=f"g{seed}",
                token_ids=tokens,
                trained=trained,
                logprobs=np.where(trained, rng.normal(-np.log(320), 0.2, len(tokens)), 0).astype(np.float32),
                turns=(Turn(1, len(tokens), 0.0, number, True),),
                version_spans=(),
                temperature=0.7 + 0.1 * number,
            )
        )
    return sequences


def save(worker: LearnerWorker, directory: Path) -> None:
    """A checkpoint of the worker as it is, written to the end."""
    worker.begin_save(directory)
    worker.end_save()


def tables_of_step(step: int, count: int = 12) -> tuple[pa.Table, pa.Table]:
    """`make_tables` with ids that no other step has, since one batch may hold sequences of several."""
    sequences = [
        replace(s, **{name: f"{step}-{getattr(s, name)}" for name in ("sequence_id", "episode_id", "group_id")})
        for s in make_sequences(count, step)
    ]
    return make_tables(sequences, step)


def make_tables(sequences: list[Sequence], seed: int = 0) -> tuple[pa.Table, pa.Table]:
    """(sequences, assignments): of every three sequences one to SFT, one to GRPO and one to both."""
    rng = np.random.default_rng(seed)
    assignments = [
        Assignment(
            sequence_id=sequence.sequence_id,
            route=Route.SFT if index % 3 == 0 else Route.GRPO,
            advantages=(float(rng.normal()),),
            rl_weight=0.0 if index % 3 == 0 else 1.0,
            ce_weight=0.0 if index % 3 == 1 else 0.5,
            reward_advantages={},
        )
        for index, sequence in enumerate(sequences)
    ]
    return schema.sequences_to_table(sequences), schema.assignments_to_table(assignments)


def published(policy: PolicyShard) -> dict[str, torch.Tensor]:
    """What engines are given, by name: adapters (none on any worker but the first), or all weights."""
    if policy.config.lora:
        update = policy.export(1)
        return update.load() if update else {}
    return {name: tensor.clone() for name, tensor in policy.weights()}
