"""The transport alone: buckets, and groups of one process, in which every end is a thread."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from learners.policy.transport import TransferError, WeightReceiver, WeightSender, buckets

SHAPES = st.lists(st.lists(st.integers(0, 5), max_size=3), max_size=12)
WEIGHTS = {
    "embedding": torch.randn(40, 8),
    **{f"layer {at}": torch.randn(3, 5) for at in range(4)},
    "scalar": torch.tensor(0.5),
}


@given(SHAPES, st.integers(1, 200), st.sampled_from([torch.float32, torch.bfloat16]))
def test_buckets_hold_every_weight_in_order_and_at_most_so_many_bytes(
    shapes: list[list[int]], limit: int, dtype: torch.dtype
) -> None:
    weights = {f"{at}": torch.randn(shape) for at, shape in enumerate(shapes)}
    found: list[tuple[str, Tensor]] = []
    for header, flat in buckets(weights.items(), dtype, limit):
        said = json.loads(header.numpy().tobytes())
        sizes = [torch.Size(shape).numel() for _, shape in said["tensors"]]
        assert getattr(torch, said["dtype"]) == flat.dtype == dtype and sum(sizes) == flat.numel()
        assert flat.nbytes <= limit or len(sizes) == 1
        parts = flat.clone().split(sizes)
        found += [(name, part.view(shape)) for (name, shape), part in zip(said["tensors"], parts, strict=True)]
    assert [name for name, _ in found] == list(weights)
    for name, tensor in found:
        assert torch.equal(tensor, weights[name].to(dtype))


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as executor:
        yield executor


def taking(
    threads: ThreadPoolExecutor, sender: WeightSender, receiver: WeightReceiver, life: str, timeout_s: float = 20
) -> Future[dict[str, Tensor]]:
    address = sender.address()
    return threads.submit(lambda: dict(receiver.receive(*address, life, timeout_s)))


def same(found: dict[str, Tensor], factor: float = 1.0) -> bool:
    return list(found) == list(WEIGHTS) and all(torch.equal(found[name], factor * WEIGHTS[name]) for name in WEIGHTS)


def test_all_processes_of_all_engines_receive_the_same_again_and_again(threads: ThreadPoolExecutor) -> None:
    sender, lives = WeightSender(), {"a": ("a/1", 2), "b": ("b/1", 1)}
    receivers = [("a/1", WeightReceiver(0, 2)), ("a/1", WeightReceiver(1, 2)), ("b/1", WeightReceiver(0, 1))]
    for factor in (1.0, 2.0):
        futures = [taking(threads, sender, receiver, life) for life, receiver in receivers]
        weights = ((name, factor * tensor) for name, tensor in WEIGHTS.items())
        assert sender.send(weights, lives, torch.float32, 20) == {}
        assert all(same(future.result(20), factor) for future in futures)


def test_an_engine_that_never_joins_is_named_in_time_and_the_others_get_their_weights(
    threads: ThreadPoolExecutor,
) -> None:
    sender = WeightSender()
    other = taking(threads, sender, WeightReceiver(0, 1), "b/1")
    started = time.monotonic()
    failed = sender.send(WEIGHTS.items(), {"a": ("a/1", 1), "b": ("b/1", 1)}, torch.float32, 8)
    assert list(failed) == ["a"] and failed["a"].startswith("a did not join within 2 s")
    assert time.monotonic() - started < 6 and same(other.result(20))


def test_an_engine_that_came_in_time_is_served_however_long_the_wait_for_another_was(
    threads: ThreadPoolExecutor,
) -> None:
    sender = WeightSender()
    host, port = sender.address()
    store = TCPStore(host, port, is_master=False)
    PrefixStore("b/1", store).set("place-1", "cpu")  # there, as the receiver says it, but slow to go on
    lives = {"a": ("a/1", 1), "b": ("b/1", 1)}
    sending = threads.submit(sender.send, WEIGHTS.items(), lives, torch.float32, 4)
    store.wait(["b/1/place-0"], timedelta(seconds=10))  # the learner has given "a" up
    time.sleep(0.5)
    took = taking(threads, sender, WeightReceiver(0, 1), "b/1")
    assert list(sending.result(20)) == ["a"] and same(took.result(20))


def test_an_engine_that_goes_away_is_named_and_its_next_life_joins_anew(threads: ThreadPoolExecutor) -> None:
    sender, receiver = WeightSender(), WeightReceiver(0, 1)
    first = taking(threads, sender, receiver, "a/1")
    assert sender.send(WEIGHTS.items(), {"a": ("a/1", 1)}, torch.float32, 20) == {}
    assert same(first.result(20))
    del receiver, first
    failed = sender.send(WEIGHTS.items(), {"a": ("a/1", 1)}, torch.float32, 20)
    assert list(failed) == ["a"] and failed["a"].startswith("a is gone: ") and "\n" not in failed["a"]
    second = taking(threads, sender, WeightReceiver(0, 1), "a/2")
    assert sender.send(WEIGHTS.items(), {"a": ("a/2", 1)}, torch.float32, 20) == {}
    assert same(second.result(20))


def test_a_learner_that_stops_sending_is_named_after_the_deadline(threads: ThreadPoolExecutor) -> None:
    sender = WeightSender()

    def stalling() -> Iterator[tuple[str, Tensor]]:
        yield from WEIGHTS.items()
        time.sleep(4)

    took = taking(threads, sender, WeightReceiver(0, 1), "a/1", timeout_s=2)
    sending = threads.submit(sender.send, stalling(), {"a": ("a/1", 1)}, torch.float32, 20)
    with pytest.raises(TransferError, match=r"^the learner at .*:\d+ did not do its part in time: "):
        took.result(20)
    assert list(sending.result(20)) == ["a"]


def test_where_no_learner_is_the_engine_says_so(threads: ThreadPoolExecutor) -> None:
    host, port = WeightSender().address()  # closed at once
    with pytest.raises(TransferError, match=f"^no learner answers at {host}:{port}: "):
        next(WeightReceiver(0, 1).receive(host, port, "a/1", 1))
