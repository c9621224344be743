"""An engine of two worker processes that share every layer, and the end of one of its processes: vLLM on the CPU."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from actors.engine import AdapterSettings, EngineDied, EngineError, SamplingParameters
from learners.policy.weight_update import WeightOffer
from learners.tiny.build import Shape, build_model, save_checkpoint, train_tokenizer
from tests.actors.conftest import SETTINGS, EngineUnderTest, started
from tests.actors.sending import SENDER
from tests.actors.test_publication_faults import interrupted, small_buckets
from tests.actors.test_vllm_engine import PROMPT, check_adapters, check_parity, core_of

__all__ = ["small_buckets"]

pytestmark = [pytest.mark.real, pytest.mark.asyncio]

TWO = SETTINGS.model_copy(update={"tensor_parallel": 2})
AT_ONCE_S = 20.0
"""Seconds for an end, on a machine that does other work too; a hang lasts for minutes."""


@asynccontextmanager
async def parallel(
    folder: Path, lora: AdapterSettings | None = None
) -> AsyncIterator[tuple[EngineUnderTest, list[psutil.Process]]]:
    """An engine of two workers, and its processes: its core, and the workers in order."""
    under_test = await started(folder, TWO.model_copy(update={"lora": lora}))
    try:
        yield under_test, processes_of(core_of(under_test.engine))
    finally:
        await under_test.engine.close()


def processes_of(core: psutil.Process) -> list[psutil.Process]:
    workers = [child for child in core.children() if "Worker" in child.name()]
    return [core, *sorted(workers, key=lambda worker: worker.cmdline()[0])]


def shared_memory(process: psutil.Process) -> list[Path]:
    """Of the workers of an engine, as this process has it open."""
    return [Path(memory.path) for memory in process.memory_maps() if "vllm_dist_" in memory.path]


async def all_end(processes: Sequence[psutil.Process]) -> bool:
    _, alive = await asyncio.to_thread(psutil.wait_procs, processes, AT_ONCE_S)
    return not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture(scope="module")
def four_heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose two key-value heads go to a worker each; those of the other fixtures have one for both."""
    folder = tmp_path_factory.mktemp("four-heads")
    tokenizer = train_tokenizer(["go to desk 1"], vocab_size=384)
    save_checkpoint(build_model(tokenizer, Shape(hidden_size=256, layers=2)), tokenizer, folder)
    return folder


async def test_two_workers_agree_with_the_model_and_all_end_with_one_of_them(four_heads: Path) -> None:
    async with parallel(four_heads) as (under_test, processes):
        await check_parity(under_test, 0)
        for seed in (1, 2):
            await under_test.publish(seed)
            await check_parity(under_test, seed)
        _, *workers = processes
        assert [len(shared_memory(worker)) for worker in workers] == [2, 2]
        assert not any(segment.exists() for segment in shared_memory(workers[0])), "it would outlive them"

        sampling = SamplingParameters(max_tokens=180)
        running = [asyncio.create_task(under_test.engine.generate(PROMPT, sampling, seed)) for seed in range(8)]
        while under_test.engine.stats().running < 8:
            await asyncio.sleep(0.001)
        began = time.monotonic()
        processes[2].kill()
        deaths = await asyncio.gather(*running, return_exceptions=True)
        assert all(isinstance(death, EngineDied) for death in deaths)
        assert time.monotonic() - began < AT_ONCE_S
        assert await all_end(processes)
        with pytest.raises(EngineDied, match=r"the engine died: .*VllmWorker-1 ended"):
            await under_test.engine.generate(PROMPT, sampling)


async def test_two_workers_take_adapters(four_heads: Path) -> None:
    async with parallel(four_heads, AdapterSettings(max_rank=4)) as (under_test, _):
        await check_adapters(under_test, 2)


@pytest.mark.usefixtures("small_buckets")
async def test_a_worker_that_is_killed_in_the_middle_of_a_publication_takes_the_engine_along(
    tiny_model_dir: Path,
) -> None:
    async with parallel(tiny_model_dir) as (under_test, processes):
        began = time.monotonic()
        weights = interrupted(under_test.model, processes[2].kill)
        sending = asyncio.to_thread(SENDER.send, weights, {"rollout-0": ("parallel/1", 2)}, torch.float32, 120.0)
        offer = WeightOffer(1, *SENDER.address(), "parallel/1")
        failed, death = await asyncio.gather(sending, under_test.engine.publish(offer), return_exceptions=True)
        assert isinstance(failed, dict) and failed["rollout-0"].startswith("rollout-0 is gone: ")
        assert isinstance(death, EngineDied) and time.monotonic() - began < AT_ONCE_S
        assert await all_end(processes)


def actor(folder: Path, link: Connection) -> None:
    """Tells its engine's folder and the ids of its processes, and generates until it is killed."""

    async def play() -> None:
        under_test = await started(folder, TWO)
        engine: Any = under_test.engine
        link.send((engine._directory, [process.pid for process in processes_of(core_of(engine))]))
        while True:
            await under_test.engine.generate(PROMPT, SamplingParameters(max_tokens=180))

    asyncio.run(play())


async def test_nothing_of_an_engine_outlives_an_actor_that_is_killed(tiny_model_dir: Path) -> None:
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=actor, args=(tiny_model_dir, theirs))
    process.start()
    theirs.close()  # or nobody would notice an end before it has told them
    try:
        folder, pids = await asyncio.to_thread(ours.recv)
        processes = [psutil.Process(pid) for pid in pids]
        assert len(processes) == 3 and folder.exists()
        await asyncio.sleep(0.5)  # it generates
    finally:
        process.kill()
    assert await all_end(processes)
    assert not folder.exists()


async def test_a_worker_that_cannot_load_the_model_says_why(tiny_model_dir: Path, tmp_path: Path) -> None:
    """vLLM's engine core says of it only that a worker failed."""
    from actors.vllm_engine import VllmEngine

    AutoModelForCausalLM.from_pretrained(tiny_model_dir).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["model.norm.weight"] = torch.zeros(7)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EngineError, match=r"the engine cannot serve .*: \w*Error: .*7"):
        await VllmEngine.start(str(tmp_path), TWO)
