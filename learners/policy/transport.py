"""The transport of full weights from the learner to the engines: named tensors, broadcast in buckets over
torch.distributed, with NCCL between GPUs and with gloo between CPUs. Neither end keeps more than a bucket of them.

Each engine and the learner's first worker are a group of their own, formed at the first publication and kept until one
of the two ends: an engine that dies takes nobody along, and a new one forms a new group. The engine's worker hands
what arrives to vLLM's own layer-wise reload, a tensor at a time.

vLLM's native weight transfer (`vllm.distributed.weight_transfer`, looked at in 0.32) is not used: its broadcast runs on
`PyNcclCommunicator` and so on GPUs only, it wants vLLM imported in the learner's process, its learner's end serves all
engines as one group, and neither end has a deadline.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, ProcessGroupGloo, Store
from torch.distributed.rendezvous import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from trajectories.errors import ConcertoError, first_line

BUCKET = 32 << 20
"""Bytes of weights that travel at once; a larger tensor travels alone. Larger buckets are no faster here, and each end
holds one or two."""

FORMING_S = 10.0
"""Seconds that a group may take to form at least, once all its members are there: the wait for an engine that died may
have used up those before it."""

Named = tuple[str, Tensor]


class TransferError(ConcertoError):
    """Weights did not arrive. The message says who was waited for."""


class Link:
    """One end of a group in which rank 0 sends and every other rank receives the same.

    Args:
        store: both ends reach it.
        rank: 0 the sender, from 1 on the engine's worker processes.
        peer: who is at the other end, for messages.
        timeout_s: the others must have come by then; those who are there already always count.
    Raises:
        TransferError: they have not.
    """

    def __init__(self, store: Store, rank: int, size: int, peer: str, timeout_s: float) -> None:
        self._peer = peer
        limit = timedelta(seconds=timeout_s)
        places = [f"place-{at}" for at in range(size)]
        try:
            store.set(places[rank], _place())
            if not store.check(places):
                store.wait(places, limit)
            found = [store.get(place).decode() for place in places]
            # NCCL refuses two ranks on one GPU; there weights pass through the CPU's memory.
            nccl = "cpu" not in found and len(set(found)) == size
            kind: Any = dist.ProcessGroupNCCL if nccl else ProcessGroupGloo
            self._group = kind(store, rank, size, max(limit, timedelta(seconds=FORMING_S)))
        except RuntimeError as error:
            raise TransferError(f"{peer} did not join within {timeout_s:.0f} s: {_words(error)}") from error
        self.device = torch.device("cuda", torch.cuda.current_device()) if nccl else torch.device("cpu")

    def broadcast(self, tensor: Tensor, deadline: float) -> Any:
        """Begin to send (rank 0) or receive (the others) a contiguous tensor on `device`; `finish` waits for it."""
        options = dist.BroadcastOptions()
        options.rootRank = 0
        options.timeout = _until(deadline)
        try:
            return self._group.broadcast([tensor.view(torch.uint8)], options)
        except RuntimeError as error:
            raise TransferError(f"{self._peer} is gone: {_words(error)}") from error

    def finish(self, work: Any, deadline: float) -> None:
        """Raises TransferError when the other end is gone, or has not done its part before the deadline."""
        try:
            work.wait(_until(deadline))
        except RuntimeError as error:
            late = time.monotonic() >= deadline - 0.1
            why = "did not do its part in time" if late else "is gone"
            raise TransferError(f"{self._peer} {why}: {_words(error)}") from error

    def close(self) -> None:
        """Free the group; what is under way in it ends with an error."""
        if self.device.type == "cuda":
            self._group.abort()
        del self._group


class WeightSender:
    """The learner's end, on its first worker."""

    def __init__(self) -> None:
        self._store: TCPStore | None = None
        self._links: dict[str, tuple[str, Link]] = {}

    def address(self) -> tuple[str, int]:
        """Host and port at which engines join; opened with the first call."""
        host = os.environ.get("MASTER_ADDR", "127.0.0.1")  # Ray Train sets it to the node of worker 0
        if self._store is None:
            self._store = TCPStore(host, 0, is_master=True, wait_for_workers=False)
        return host, self._store.port

    def send(
        self, weights: Iterable[Named], lives: Mapping[str, tuple[str, int]], dtype: torch.dtype, timeout_s: float
    ) -> dict[str, str]:
        """Send weights to engines, which take them at the same time.

        Args:
            weights: run to its end, whatever becomes of the engines: other workers may help to gather it.
            lives: of every engine by name its life, as in its `WeightOffer`, and the number of its worker processes.
            dtype: what travels.
            timeout_s: for all of it, the wait until the engines are ready to take included. An engine that has no
                connection yet must join within a quarter of it, so that the others do not wait for one that died.
        Returns:
            By name the engines that did not get all, and why.
        """
        began = time.monotonic()
        sending = _Sending({}, {}, began + timeout_s)
        for name, (life, processes) in lives.items():
            try:
                sending.links[name] = self._joined(name, life, processes, began + timeout_s / 4)
            except TransferError as error:
                sending.failed[name] = str(error)
        for header, flat in buckets(weights, dtype):
            sending.broadcast(torch.tensor([len(header)]))
            sending.broadcast(header)
            sending.broadcast(flat)
        sending.broadcast(torch.tensor([0]))
        for name in sending.failed:
            self._leave(name)
        return sending.failed

    def _joined(self, name: str, life: str, processes: int, deadline: float) -> Link:
        """The link with this life of an engine. One with an earlier life is closed."""
        if self._links.get(name, ("",))[0] != life:
            self._leave(name)
            self.address()
            assert self._store is not None
            store = PrefixStore(life, self._store)
            self._links[name] = life, Link(store, 0, 1 + processes, name, _until(deadline).total_seconds())
        return self._links[name][1]

    def _leave(self, name: str) -> None:
        if name in self._links:
            self._links.pop(name)[1].close()


@dataclass(slots=True)
class _Sending:
    """One publication: the links that still work, and why the others do not."""

    links: dict[str, Link]
    failed: dict[str, str]
    deadline: float

    def broadcast(self, tensor: Tensor) -> None:
        """To all engines at once; one that fails is left out from then on."""
        on_device = {device: tensor.to(device) for device in {link.device for link in self.links.values()}}
        begun = {}
        for name, link in list(self.links.items()):
            with self._leaving_out(name):
                begun[name] = link.broadcast(on_device[link.device], self.deadline)
        for name, work in begun.items():
            with self._leaving_out(name):
                self.links[name].finish(work, self.deadline)

    @contextmanager
    def _leaving_out(self, name: str) -> Iterator[None]:
        try:
            yield
        except TransferError as error:
            self.failed[name] = str(error)
            del self.links[name]


class WeightReceiver:
    """An engine's end, in each of its worker processes."""

    def __init__(self, rank: int, processes: int) -> None:
        """`rank`: of this process among the engine's `processes`, from 0."""
        self._rank, self._size = 1 + rank, 1 + processes
        self._joined: tuple[str, int, str] | None = None
        self._link: Link | None = None

    def receive(self, host: str, port: int, life: str, timeout_s: float) -> Iterator[Named]:
        """The weights as they come in; each tensor has memory of its own that lasts while it is held.

        Raises:
            TransferError: they did not all arrive in time, or the learner is gone.
        """
        deadline = time.monotonic() + timeout_s
        link = self._connected(host, port, life, deadline)

        def take(size: int, dtype: torch.dtype) -> Tensor:
            tensor = torch.empty(size, dtype=dtype, device=link.device)
            link.finish(link.broadcast(tensor, deadline), deadline)
            return tensor

        while length := int(take(1, torch.int64)):
            header = json.loads(take(length, torch.uint8).cpu().numpy().tobytes())
            sizes = [torch.Size(shape).numel() for _, shape in header["tensors"]]
            parts = take(sum(sizes), getattr(torch, header["dtype"])).split(sizes)
            for (name, shape), part in zip(header["tensors"], parts, strict=True):
                yield name, part.view(shape)

    def _connected(self, host: str, port: int, life: str, deadline: float) -> Link:
        if self._link is None or self._joined != (host, port, life):
            timeout = _until(deadline)
            try:
                store = TCPStore(host, port, is_master=False, timeout=timeout)
            except RuntimeError as error:
                raise TransferError(f"no learner answers at {host}:{port}: {_words(error)}") from error
            peer = f"the learner at {host}:{port}"
            self._link = Link(PrefixStore(life, store), self._rank, self._size, peer, timeout.total_seconds())
            self._joined = host, port, life
        return self._link


def buckets(weights: Iterable[Named], dtype: torch.dtype, limit: int = BUCKET) -> Iterator[tuple[Tensor, Tensor]]:
    """Headers, uint8 [n], and flat weights, [n] of `dtype`. The memory of both is used again for the next ones.

    A header is JSON: `dtype`, and `tensors`, a list of names and shapes in the order of the flat weights.

    Args:
        limit: bytes of a bucket; a tensor above it gets one of its own.
    """
    capacity = limit // dtype.itemsize
    bucket: Tensor | None = None
    tensors: list[tuple[str, list[int]]] = []
    filled = 0
    for name, tensor in weights:
        size = tensor.numel()
        if tensors and filled + size > capacity:
            assert bucket is not None
            yield _header(tensors, dtype), bucket[:filled]
            tensors, filled = [], 0
        if size > capacity:
            yield _header([(name, list(tensor.shape))], dtype), tensor.detach().to(dtype).reshape(-1)
            continue
        if bucket is None:
            bucket = torch.empty(capacity, dtype=dtype, device=tensor.device)
        bucket[filled : filled + size].view(tensor.shape).copy_(tensor.detach())
        tensors.append((name, list(tensor.shape)))
        filled += size
    if tensors:
        assert bucket is not None
        yield _header(tensors, dtype), bucket[:filled]


def _header(tensors: list[tuple[str, list[int]]], dtype: torch.dtype) -> Tensor:
    text = json.dumps({"dtype": str(dtype).removeprefix("torch."), "tensors": tensors})
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)


def _words(error: RuntimeError) -> str:
    """What gloo, NCCL or the store say, without the line of their source and their advice."""
    return first_line(error).rpartition("] ")[2].partition(". This is")[0] if "[/" in str(error) else first_line(error)


def _place() -> str:
    """The GPU of this process, else `cpu`."""
    if not torch.cuda.is_available():
        return "cpu"
    return str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)


def _until(deadline: float) -> timedelta:
    return timedelta(seconds=max(0.001, deadline - time.monotonic()))
