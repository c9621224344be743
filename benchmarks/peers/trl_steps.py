# pyright: reportMissingImports=false
"""Steps of TRL's `GRPOTrainer` on given sequences. Needs TRL only, and runs in an environment of its own.

    python trl_steps.py BATCH.npz MODEL '{"rows": 4, "dtype": "bfloat16", "steps": 4, "threads": 2}'

Nothing is generated: the trainer is handed the batch where it would sample one, with the trained positions as its mask
of what the model itself wrote. Prints JSON: seconds of each step after the first, MiB of the process at its peak, and
versions.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from importlib import metadata
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

GROUP = 8


class Clock(TrainerCallback):
    """Seconds of each step, between the trainer's own events."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._begun = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._begun = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.perf_counter() - self._begun)


def padded(rows: list[np.ndarray], left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Values and mask of rows of different lengths."""
    width = max(map(len, rows))
    values, mask = torch.zeros(2, len(rows), width, dtype=torch.long)
    for at, row in enumerate(rows):
        where = slice(width - len(row), width) if left else slice(0, len(row))
        values[at, where], mask[at, where] = torch.from_numpy(row.astype(np.int64)), 1
    return values, mask


def batch(file: str) -> dict[str, torch.Tensor]:
    """What the trainer makes of a generation: the prompt ends where the first trained token is."""
    held = np.load(file)
    tokens = np.split(held["tokens"], held["ends"][:-1])
    trained = np.split(held["trained"], held["ends"][:-1])
    starts = [int(row.argmax()) for row in trained]
    prompts, prompt_mask = padded([row[:at] for row, at in zip(tokens, starts, strict=True)], left=True)
    completions, mask = padded([row[at:] for row, at in zip(tokens, starts, strict=True)], left=False)
    own, _ = padded([row[at:] for row, at in zip(trained, starts, strict=True)], left=False)
    return {
        "prompt_ids": prompts,
        "prompt_mask": prompt_mask,
        "completion_ids": completions,
        "completion_mask": mask,
        "tool_mask": own,
        "advantages": torch.tensor([1.0 - 2.0 * (at % 2) for at in range(len(tokens))]),
        "num_items_in_batch": own.sum(),
    }


class Given(GRPOTrainer):
    """A trainer whose generations are given."""

    given: dict[str, torch.Tensor]

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, torch.Tensor]:
        return dict(self.given)


def main() -> None:
    file, model, asked = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    torch.set_num_threads(asked["threads"])
    given = batch(file)
    count = len(given["advantages"])
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder,
            use_cpu=not torch.cuda.is_available(),
            bf16=asked["dtype"] == "bfloat16",
            per_device_train_batch_size=asked["rows"],
            gradient_accumulation_steps=count // asked["rows"],
            steps_per_generation=count // asked["rows"],
            num_generations=GROUP,
            max_steps=asked["steps"],
            learning_rate=1e-6,
            lr_scheduler_type="constant",
            beta=0.0,
            gradient_checkpointing=False,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = Given(
            model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            args=config,
            train_dataset=Dataset.from_dict({"prompt": ["a"] * count}),
            processing_class=AutoTokenizer.from_pretrained(asked["tokenizer"]),
            callbacks=[clock],
        )
        trainer.given = given
        trainer.train()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    versions = {name: metadata.version(name) for name in ("trl", "torch", "transformers")}
    print(json.dumps({"seconds": clock.seconds[1:], "peak_mib": round(peak), "versions": versions}))


if __name__ == "__main__":
    main()
