"""Shared fixtures: one real Ray for the whole session, and small models in Hugging Face format."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("here", deadline=None)  # examples share two cores with engines that start
settings.load_profile("here")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

TEXT = (
    "-= Welcome to TextWorld, ALFRED! =-\n\nYou are in the middle of a room. Looking quickly around you, you see a "
    "cabinet 1, a desk 1, a drawer 2, and a shelf 3.\n\nYour task is to: put a clean mug in shelf.",
    "go to desk 1",
    "You arrive at desk 1. On the desk 1, you see a mug 1, a pen 2, and a desklamp 1.",
    "take mug 1 from desk 1",
    "You pick up the mug 1 from the desk 1.",
    "clean mug 1 with sinkbasin 1",
    "open drawer 2",
    "You open the drawer 2. The drawer 2 is open. In it, you see nothing.",
    "move mug 1 to shelf 3",
    "Nothing happens.",
)


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """A private local Ray with two CPUs, started once and shut down at the end."""
    import ray

    folder = tempfile.mkdtemp(prefix="concerto-ray-")
    ray.init(
        num_cpus=2, include_dashboard=False, _temp_dir=folder, object_store_memory=300 * 2**20, log_to_driver=False
    )
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random-initialised Qwen-style model of some 100,000 parameters, untied head, with its tokenizer."""
    return _save_model(tmp_path_factory.mktemp("tiny-model"), tied=False)


@pytest.fixture(scope="session")
def tied_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with `tie_word_embeddings=True`: the publication trap."""
    return _save_model(tmp_path_factory.mktemp("tied-model"), tied=True)


@pytest.fixture(scope="session")
def roomy_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model as if it were made for 16,384 tokens: for settings whose context it would not hold."""
    from learners.tiny import embedded_model_path

    folder = tmp_path_factory.mktemp("roomy") / "model"
    shutil.copytree(embedded_model_path(), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 16_384}))
    return folder


def _save_model(folder: Path, tied: bool) -> Path:
    from learners.tiny.build import Shape, build_model, save_checkpoint, train_tokenizer

    tokenizer = train_tokenizer(TEXT, vocab_size=384)
    save_checkpoint(
        build_model(tokenizer, Shape(hidden_size=64, layers=2, intermediate_size=192, tied=tied)), tokenizer, folder
    )
    return folder
