"""Fixtures of the actors' tests: real engines, each started once and shared by many tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
import torch

from actors.engine import AdapterSettings, EngineSettings
from tests.actors.sending import publish
from trajectories.chat import ChatTokenizer

SETTINGS = EngineSettings(dtype="float32", max_model_len=256, max_num_seqs=64, cpu_kv_cache_mib=64)


@pytest.fixture(scope="session")
def chat(tiny_model_dir) -> ChatTokenizer:
    return ChatTokenizer.from_pretrained(str(tiny_model_dir))


class EngineUnderTest:
    """An engine, and a transformers model that is changed along with it: the reference for log-probabilities."""

    def __init__(self, engine: Any, model: Any, processes: int) -> None:
        self.engine = engine
        self.model = model
        self.processes = processes
        self.version = 0

    async def publish(self, seed: int, leave_out: tuple[str, ...] = ()) -> None:
        """Change the reference model's weights at random and publish them as the next version."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        self.version += 1
        weights = {name: tensor for name, tensor in self.model.state_dict().items() if name not in leave_out}
        life = f"engine-{id(self.engine)}"
        await publish(self.engine.publish, weights.items(), self.version, life, self.processes)

    def logprobs(self, token_ids: np.ndarray, temperature: float = 1.0) -> np.ndarray:
        """float32 [T] by transformers, 0 for the first token."""
        ids = torch.as_tensor(np.asarray(token_ids, np.int64))
        with torch.no_grad():
            logits = self.model(ids[None]).logits[0, :-1].float() / temperature
        scores = torch.log_softmax(logits, -1).gather(1, ids[1:, None])[:, 0]
        return np.concatenate([[0.0], scores.numpy()]).astype(np.float32)


async def started(model_dir: Path, settings: EngineSettings) -> EngineUnderTest:
    from transformers import AutoModelForCausalLM

    from actors.vllm_engine import VllmEngine

    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    return EngineUnderTest(await VllmEngine.start(str(model_dir), settings), model, settings.tensor_parallel)


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def untied(tiny_model_dir) -> AsyncIterator[EngineUnderTest]:
    under_test = await started(tiny_model_dir, SETTINGS)
    yield under_test
    await under_test.engine.close()


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def tied(tied_model_dir) -> AsyncIterator[EngineUnderTest]:
    under_test = await started(tied_model_dir, SETTINGS.model_copy(update={"control_timeout_s": 5.0}))
    yield under_test
    await under_test.engine.close()


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def lora(tied_model_dir) -> AsyncIterator[EngineUnderTest]:
    under_test = await started(tied_model_dir, SETTINGS.model_copy(update={"lora": AdapterSettings(max_rank=4)}))
    yield under_test
    await under_test.engine.close()
