"""The embedded base model: a Qwen3 of 4.7 million parameters that has read play without goals, and shopping.

Rebuild it with `python -m learners.tiny.pretrain --out learners/tiny/model`.
"""

from __future__ import annotations

from pathlib import Path


def embedded_model_path() -> Path:
    """Checkpoint directory (Hugging Face format) of the model that ships with Concerto."""
    return Path(__file__).parent / "model"
