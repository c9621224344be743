"""Pre-train the embedded base model: `python -m learners.tiny.pretrain --out DIR`.

Next-token loss on transcripts of goal-less play, slips left out, after some hundred thousand tokens to copy, from a
model that has an induction circuit from the start (`learners.tiny.induction`). Hidden matrices learn with Muon (Jordan
et al., 2024: orthogonalised momentum, about twice the progress per token of AdamW here), embeddings, head and norms
with AdamW. Interrupted at any time, the same command goes on from the last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

import torch
from torch.nn import functional
from transformers import Qwen3ForCausalLM

from learners.tiny.batches import IGNORED, Batch, Batching, batches
from learners.tiny.build import Shape, build_model, save_checkpoint
from learners.tiny.corpus import Corpus, Volumes, build_corpus
from learners.tiny.induction import plant_induction
from learners.workers.process import keep_freed_memory
from trajectories.files import written_aside

log = logging.getLogger(__name__)

CHECKPOINT_EVERY = 200
LOG_EVERY = 20
KERNELS_KEPT = 64
"""Kernels that the CPU library caches, by the shapes of products: a thousand of them, its default, hold gigabytes."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that decides the weights. Written next to them as `recipe.json`."""

    shape: Shape = field(default_factory=Shape)
    volumes: Volumes = field(default_factory=Volumes)
    batching: Batching = field(default_factory=Batching)
    tokens: int = 16_000_000
    """Training budget, padding not counted."""
    muon_lr: float = 0.02
    adam_lr: float = 4e-3
    warmup_steps: int = 40
    decay_share: float = 0.4
    """Last share of the budget over which both rates fall linearly to a twentieth."""


@dataclass
class Progress:
    """How far training is. Tokens decide the rates, steps the next batch."""

    step: int = 0
    tokens: int = 0


def learning_rate_scale(recipe: Recipe, progress: Progress) -> float:
    """Linear warm-up, plateau, linear decay to 0.05."""
    left = 1 - progress.tokens / recipe.tokens
    return min((progress.step + 1) / recipe.warmup_steps, 1.0, 0.05 + 0.95 * left / recipe.decay_share)


def matrix_precision() -> torch.dtype:
    """bfloat16 where the CPU multiplies it natively; elsewhere it is twenty times slower than float32."""
    native = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()  # pyright: ignore[reportPrivateUsage]
    return torch.bfloat16 if native else torch.float32


def next_token_loss(model: Qwen3ForCausalLM, batch: Batch) -> torch.Tensor:
    """Mean cross-entropy over the targets of `batch`."""
    precision = matrix_precision()
    targets = torch.from_numpy(batch.targets)
    asked = targets != IGNORED
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision is torch.bfloat16):
        hidden = model.model(input_ids=torch.from_numpy(batch.ids)).last_hidden_state
        logits = model.lm_head(hidden[asked])
    return functional.cross_entropy(logits.float(), targets[asked])


class Trainer:
    """Model, optimisers and how far they are."""

    def __init__(self, recipe: Recipe, corpus: Corpus) -> None:
        torch.manual_seed(recipe.batching.seed)
        self.recipe, self.corpus, self.progress = recipe, corpus, Progress()
        self.model = build_model(corpus.tokenizer, recipe.shape, seed=recipe.batching.seed)
        plant_induction(self.model, seed=recipe.batching.seed)
        matrices = [p for p in self.model.model.layers.parameters() if p.ndim == 2]
        others = [p for name, p in self.model.named_parameters() if p.ndim < 2 or "layers" not in name]
        self.optimizers = [
            torch.optim.Muon(matrices, lr=recipe.muon_lr, weight_decay=0.01),
            torch.optim.AdamW(others, lr=recipe.adam_lr, betas=(0.9, 0.95), weight_decay=0.01),
        ]

    def step(self, batch: Batch) -> float:
        """One update of both optimisers; the loss before it."""
        scale = learning_rate_scale(self.recipe, self.progress)
        rates = (self.recipe.muon_lr, self.recipe.adam_lr)
        loss = next_token_loss(self.model, batch)
        loss.backward()
        for optimizer, rate in zip(self.optimizers, rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * scale
            optimizer.step()
            optimizer.zero_grad()
        self.progress.step += 1
        self.progress.tokens += batch.tokens
        return loss.item()

    def save(self, out: Path) -> None:
        """The model as users load it, and beside it what `resume` reads."""
        half = build_model(self.corpus.tokenizer, self.recipe.shape)
        half.load_state_dict(self.model.state_dict())
        half.to(dtype=torch.bfloat16)  # pyright: ignore[reportCallIssue]
        with written_aside(out / "model") as aside:
            save_checkpoint(half, self.corpus.tokenizer, aside)
            (aside / "recipe.json").write_text(
                json.dumps(asdict(self.recipe) | {"trained": asdict(self.progress)}, indent=2) + "\n"
            )
        with written_aside(out / "training.pt") as aside:
            optimizers = [optimizer.state_dict() for optimizer in self.optimizers]
            torch.save(
                {"progress": asdict(self.progress), "model": self.model.state_dict(), "optim": optimizers}, aside
            )

    def resume(self, out: Path) -> None:
        """Go on from what `save` left in `out`, if there is something."""
        if not (out / "training.pt").exists():
            return
        state = torch.load(out / "training.pt", weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optim"], strict=True):
            optimizer.load_state_dict(saved)
        self.progress = Progress(**state["progress"])


def pretrain(recipe: Recipe, out: Path, cache: Path) -> None:
    """Train to the recipe's budget, from the last checkpoint in `out` if there is one."""
    corpus = build_corpus(recipe.volumes, recipe.batching.seed, cache)
    trainer = Trainer(recipe, corpus)
    trainer.resume(out)
    remaining = islice(batches(corpus, recipe.batching), trainer.progress.step, None)
    train(trainer, remaining, out)


def train(trainer: Trainer, remaining: Iterable[Batch], out: Path) -> None:
    progress, started, before, losses = trainer.progress, time.monotonic(), trainer.progress.tokens, []
    for batch in remaining:
        if progress.tokens >= trainer.recipe.tokens:
            break
        losses.append(trainer.step(batch))
        if progress.step % LOG_EVERY == 0:
            rate = (progress.tokens - before) / (time.monotonic() - started)
            loss = sum(losses[-LOG_EVERY:]) / LOG_EVERY
            log.info("step %d  tokens %d  loss %.4f  %.0f tokens/s", progress.step, progress.tokens, loss, rate)
        if progress.step % CHECKPOINT_EVERY == 0:
            trainer.save(out)
    trainer.save(out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for model/ and the checkpoint")
    parser.add_argument("--cache", type=Path, default=Path("build/tiny-corpus"))
    parser.add_argument("--tokens", type=int, default=Recipe().tokens)
    parser.add_argument("--hidden-size", type=int, default=Shape().hidden_size)
    parser.add_argument("--layers", type=int, default=Shape().layers)
    parser.add_argument("--intermediate-size", type=int, default=Shape().intermediate_size)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(KERNELS_KEPT))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    shape = Shape(arguments.hidden_size, arguments.layers, arguments.intermediate_size)
    pretrain(Recipe(shape=shape, tokens=arguments.tokens), arguments.out, arguments.cache)
