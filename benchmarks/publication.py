"""Publication of full weights from the learner's process to another one on the same machine: seconds and extra memory.

    python -m benchmarks.publication --shape 135m 1b

`file` is what Concerto does: all weights gathered as one safetensors file in memory, sent to the engine's process,
written to shared memory, loaded from there. `ipc` hands over buckets of GPU memory (CUDA IPC), `broadcast` sends
buckets over torch.distributed with gloo from the CPU's memory. The receiver is a second copy of the model. Each way has
two processes of its own; the weights that arrive are compared with those that were sent.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import socket
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
import torch.distributed as dist
import torch.multiprocessing as torch_multiprocessing
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from benchmarks.models import SHAPES, finish, machine, random_model, write_results
from learners.learner_settings import OptimizerSettings, PolicySettings
from learners.policy.shard import PolicyShard

BUCKET = 512 << 20
"""Bytes of weights that travel at once."""
SPAWN = torch_multiprocessing.get_context("spawn")


def parameters(model: torch.nn.Module) -> list[tuple[str, Tensor]]:
    """By name; both sides have the same model, so the same order. Tied weights come once."""
    return [(name, parameter.data) for name, parameter in model.named_parameters()]


def buckets(weights: list[tuple[str, Tensor]]) -> Iterator[list[Tensor]]:
    """Weights in order, as many together as fit a bucket of bfloat16."""
    bucket: list[Tensor] = []
    for _, tensor in weights:
        if bucket and 2 * (sum(t.numel() for t in bucket) + tensor.numel()) > BUCKET:
            yield bucket
            bucket = []
        bucket.append(tensor)
    yield bucket


def packed(bucket: list[Tensor]) -> Tensor:
    """One flat bfloat16 tensor."""
    return torch.cat([tensor.flatten().to(torch.bfloat16) for tensor in bucket])


def unpack(flat: Tensor, bucket: list[Tensor]) -> None:
    """Copy a flat tensor into the receiver's weights."""
    for target, source in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
        target.copy_(source.view_as(target))


def receive(way: str, model_dir: str, port: int, link: Connection, queue: Any) -> None:
    """The engine's side: takes weights until told to stop, and answers when they are in place."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = cast(nn.Module, AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.bfloat16)).to(device)
    weights = parameters(model)
    if way == "broadcast":
        dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=1, world_size=2)
    before = memory()
    link.send("ready")
    while (order := link.recv()) != "stop":
        if way == "file":
            path = Path("/dev/shm" if Path("/dev/shm").is_dir() else tempfile.gettempdir()) / f"publication-{port}"
            path.write_bytes(order)
            loaded = safetensors.torch.load_file(path)
            for name, target in weights:
                target.copy_(loaded[name])
            path.unlink()
            del loaded, order
        for bucket in buckets(weights) if way != "file" else ():
            if way == "ipc":
                flat = queue.get()
                unpack(flat, bucket)
                finish()
                del flat
                link.send("copied")
            else:
                flat = torch.empty(sum(tensor.numel() for tensor in bucket), dtype=torch.bfloat16)
                dist.broadcast(flat, 0)
                unpack(flat, bucket)
        finish()
        link.send(("done", grown(before), float(sum(tensor.double().sum() for _, tensor in weights))))


def send(way: str, policy: PolicyShard, link: Any, queue: Any) -> Any:
    """The learner's side of one publication; the receiver's answer."""
    if way == "file":
        update = policy.export(1)
        assert update is not None
        link.send(update.tensors)
        return link.recv()
    link.send("go")
    for bucket in buckets(parameters(policy.model.causal_lm)):
        flat = packed(bucket)
        if way == "ipc":
            finish()
            queue.put(flat)
            link.recv()
        else:
            dist.broadcast(flat.cpu(), 0)
    return link.recv()


def memory() -> tuple[float, float]:
    """MiB at the peak so far, of this process and of the GPU by it."""
    device = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else 0.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, device


def grown(before: tuple[float, float]) -> dict[str, int]:
    """Growth of both peaks in MiB."""
    host, device = (now - then for now, then in zip(memory(), before, strict=True))
    return {"host_mib": round(host), "device_mib": round(device)}


def publish(way: str, model_dir: str, port: int, repeats: int, answer: Connection) -> None:
    """One way, in a process of its own: the result is sent to `answer`."""
    ours, theirs = SPAWN.Pipe()
    queue = SPAWN.Queue()
    receiver = SPAWN.Process(target=receive, args=(way, model_dir, port, theirs, queue))
    receiver.start()
    policy = PolicyShard(PolicySettings(model=model_dir, dtype="bfloat16"), OptimizerSettings())
    if way == "broadcast":
        dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=0, world_size=2)
    ours.recv()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    before, seconds = memory(), []
    for parameter in policy.model.parameters():
        parameter.data.mul_(0.5)  # what arrives must differ from what the receiver loaded
    for _ in range(repeats):
        started = time.perf_counter()
        _, received, checksum = send(way, policy, ours, queue)
        seconds.append(time.perf_counter() - started)
    expected = float(sum(tensor.bfloat16().double().sum() for _, tensor in parameters(policy.model.causal_lm)))
    answer.send(
        {
            "seconds": round(min(seconds), 4),
            "sender": grown(before),
            "receiver": received,
            "equal": abs(checksum - expected) <= 1e-6 * max(1.0, abs(expected)),
        }
    )
    ours.send("stop")
    receiver.join()
    if way == "broadcast":
        dist.destroy_process_group()


def free_port() -> int:
    """A TCP port of this machine that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=["135m"])
    parser.add_argument("--repeats", type=int, default=3, help="publications; the fastest counts")
    parser.add_argument("--out", type=Path, help="JSON file")
    arguments = parser.parse_args()
    cuda = torch.cuda.is_available()
    results: dict[str, Any] = {"machine": machine(), "rows": []}
    for shape in arguments.shape:
        with tempfile.TemporaryDirectory(prefix="concerto-bench-") as folder:
            model = random_model(shape, Path(folder), torch.device("cuda" if cuda else "cpu"))
            size = sum(file.stat().st_size for file in model.glob("*.safetensors")) / 2**20
            for way in ("file", "ipc" if cuda else "broadcast"):
                listen, tell = multiprocessing.Pipe(duplex=False)
                work = SPAWN.Process(target=publish, args=(way, str(model), free_port(), arguments.repeats, tell))
                work.start()
                tell.close()
                try:
                    row = {"shape": shape, "model_mib": round(size), "way": way} | listen.recv()
                except EOFError:
                    row = {"shape": shape, "way": way, "error": "the process died; see above"}
                work.join()
                results["rows"].append(row)
                print("  ".join(f"{key}={value}" for key, value in row.items()), flush=True)
                write_results(arguments.out, results)


if __name__ == "__main__":
    main()
