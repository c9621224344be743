"""What the benchmarks of learner, probe and publication run on: models of published shapes with random weights, random
transcripts, and a description of the machine."""

from __future__ import annotations

import json
import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM, Qwen2Config

from trajectories.files import written_aside
from trajectories.types import Sequence, Turn


@dataclass(frozen=True, slots=True)
class Shape:
    """The numbers that make a decoder of Qwen2's kind."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int
    tied: bool
    """The output head is the embedding."""


SHAPES: dict[str, Shape] = {
    "tiny": Shape(64, 128, 2, 2, 1, 512, tied=True),
    "135m": Shape(576, 1536, 30, 9, 3, 49152, tied=True),
    "0.5b": Shape(896, 4864, 24, 14, 2, 151936, tied=True),
    "1b": Shape(2048, 5504, 18, 16, 4, 65536, tied=True),
    "1.5b": Shape(1536, 8960, 28, 12, 2, 151936, tied=True),
    "3b": Shape(2048, 11008, 36, 16, 2, 151936, tied=True),
    "7b": Shape(3584, 18944, 28, 28, 4, 152064, tied=False),
}
"""`tiny` is for a rehearsal. 135m is SmolLM2's shape; 0.5b, 1.5b, 3b and 7b are Qwen2.5's; 1b is nobody's."""


def random_model(shape: str, folder: Path, device: torch.device) -> Path:
    """Write a Qwen2 model of this shape with random bfloat16 weights to `folder`, which is returned."""
    size = SHAPES[shape]
    config = Qwen2Config(
        vocab_size=size.vocab,
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        tie_word_embeddings=size.tied,
        max_position_embeddings=32768,
    )
    torch.manual_seed(0)
    with device:
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    return folder


def transcripts(count: int, tokens: int, vocabulary: int) -> list[Sequence]:
    """Random transcripts of half to one and a half times `tokens`, of which a quarter is trained, as in games."""
    generator = np.random.default_rng(0)
    found = []
    for index in range(count):
        length = int(generator.integers(tokens // 2, tokens * 3 // 2))
        trained = np.arange(length) % 4 == 3
        found.append(
            Sequence(
                sequence_id=str(index),
                episode_id=f"e-{index}",
                group_id="g",
                token_ids=generator.integers(3, vocabulary, length).astype(np.int32),
                trained=trained,
                logprobs=np.where(trained, -2.0, 0.0).astype(np.float32),
                turns=(Turn(1, length, 0.0, 0, True),),
                version_spans=(),
                temperature=1.0,
            )
        )
    return found


def machine() -> dict[str, Any]:
    """What ran, for the record of a result."""
    cuda = torch.cuda.is_available()
    return {
        "accelerator": torch.cuda.get_device_name() if cuda else None,
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "matrix_tflops": round(matrix_rate() / 1e12, 2),
    }


def matrix_rate() -> float:
    """FLOP/s of a large square matrix product: bfloat16 on a GPU, float32 on a CPU."""
    cuda = torch.cuda.is_available()
    size, dtype = (8192, torch.bfloat16) if cuda else (1024, torch.float32)
    left, right = torch.randn(2, size, size, device="cuda" if cuda else "cpu", dtype=dtype)
    for _ in range(3):
        left @ right
    finish()
    started = time.perf_counter()
    for _ in range(10):
        left @ right
    finish()
    return 10 * 2 * size**3 / (time.perf_counter() - started)


def finish() -> None:
    """Wait for the accelerator, which works on while the host goes ahead."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def write_results(file: Path | None, results: dict[str, Any]) -> None:
    """Replace `file` by `results` as JSON; called after every measurement, so that a stop loses only the next one."""
    if file is None:
        return
    with written_aside(file) as aside:
        aside.write_text(json.dumps(results, indent=1) + "\n")
