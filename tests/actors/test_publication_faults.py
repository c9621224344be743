"""Either end of a publication dies or stalls in the middle of it: real vLLM, real kills."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from actors.engine import EngineDied
from learners.policy import transport
from learners.policy.transport import Named, WeightSender
from learners.policy.weight_update import WeightOffer
from tests.actors.conftest import SETTINGS
from tests.actors.sending import SENDER, publish
from tests.actors.test_vllm_engine import core_of

pytestmark = [pytest.mark.real, pytest.mark.asyncio]

SEQUENCE = np.arange(20, 90, dtype=np.int32)
DEADLINE_S = 20.0


def model_of(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def interrupted(model: Any, interrupt: Callable[[], None]) -> Iterator[Named]:
    """The model's weights; in the middle of them something happens."""
    weights = list(model.state_dict().items())
    yield from weights[: len(weights) // 2]
    interrupt()
    yield from weights[len(weights) // 2 :]


@pytest.fixture
def small_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    buckets = transport.buckets
    monkeypatch.setattr(transport, "buckets", lambda weights, dtype: buckets(weights, dtype, 4096))


@pytest.mark.usefixtures("small_buckets")
async def test_an_engine_killed_in_the_middle_is_named_at_once_and_its_successor_gets_all(tiny_model_dir: Path) -> None:
    from actors.vllm_engine import VllmEngine

    model = model_of(tiny_model_dir)
    engine = await VllmEngine.start(str(tiny_model_dir), SETTINGS)
    core = core_of(engine)
    host, port = SENDER.address()
    started = time.monotonic()
    sending = asyncio.to_thread(
        SENDER.send, interrupted(model, core.kill), {"rollout-0": ("rollout-0/1", 1)}, torch.float32, 120.0
    )
    failed, death = await asyncio.gather(
        sending, engine.publish(WeightOffer(1, host, port, "rollout-0/1")), return_exceptions=True
    )
    assert isinstance(failed, dict) and failed["rollout-0"].startswith("rollout-0 is gone: ")
    assert isinstance(death, EngineDied) and time.monotonic() - started < DEADLINE_S
    await engine.close()

    successor = await VllmEngine.start(str(tiny_model_dir), SETTINGS)
    try:
        (before,) = await successor.score_logprobs([SEQUENCE])
        await publish(successor.publish, model.state_dict().items(), 1, "rollout-0/2")
        (after,) = await successor.score_logprobs([SEQUENCE])
        assert np.abs(after - before).max() < 1e-6
    finally:
        await successor.close()


def learner(folder: Path, link: Connection) -> None:
    """A learner that stops in the middle of a publication, until it is killed."""

    def stop() -> None:
        link.send("half")
        time.sleep(600)

    buckets = transport.buckets
    transport.buckets = lambda weights, dtype: buckets(weights, dtype, 4096)  # type: ignore[assignment]
    sender = WeightSender()
    link.send(sender.address())
    sender.send(interrupted(model_of(folder), stop), {"engine": ("engine/1", 1)}, torch.float32, 600.0)


@pytest.mark.parametrize("killed", [True, False])
async def test_a_learner_that_dies_or_stalls_in_the_middle_is_named_and_the_engine_not_trusted_again(
    tiny_model_dir: Path, killed: bool
) -> None:
    from actors.vllm_engine import VllmEngine

    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=learner, args=(tiny_model_dir, theirs), daemon=True)
    process.start()
    settings = SETTINGS.model_copy(update={"control_timeout_s": 60.0 if killed else 10.0})
    engine = await VllmEngine.start(str(tiny_model_dir), settings)
    try:
        host, port = await asyncio.to_thread(ours.recv)
        publication = asyncio.create_task(engine.publish(WeightOffer(1, host, port, "engine/1")))
        assert await asyncio.to_thread(ours.recv) == "half"
        started = time.monotonic()
        if killed:
            process.kill()
        why = "is gone" if killed else "did not do its part in time"
        with pytest.raises(EngineDied, match=rf"publish version 1: .*the learner at {host}:{port} {why}"):
            await publication
        assert time.monotonic() - started < DEADLINE_S
        with pytest.raises(EngineDied, match="half loaded"):
            await engine.score_logprobs([SEQUENCE])
    finally:
        process.kill()
        await engine.close()
