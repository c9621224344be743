"""The learner's end of a publication, in the process of a test."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

import torch

from learners.policy.transport import Named, WeightSender
from learners.policy.weight_update import WeightOffer

SENDER = WeightSender()


async def publish(
    take: Callable[[WeightOffer], Awaitable[None]],
    weights: Iterable[Named],
    version: int,
    life: str,
    processes: int = 1,
) -> None:
    """Send weights in float32 while `take`, the engine's side, takes them."""
    offer = WeightOffer(version, *SENDER.address(), life)
    sending = asyncio.to_thread(SENDER.send, weights, {life: (life, processes)}, torch.float32, 120)
    failed, _ = await asyncio.gather(sending, take(offer))
    assert failed == {}
