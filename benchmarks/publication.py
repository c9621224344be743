"""Publication of full weights from the learner's process to another one on the same machine: seconds and extra memory.

    python -m benchmarks.publication --shape 135m 0.5b

`broadcast` is what Concerto does: buckets over torch.distributed (`learners/policy/transport.py`). `file` is what it
did before: all weights gathered as one safetensors file in memory, sent to the engine's process, written to shared
memory, loaded from there. `ipc`, on a GPU only, hands over buckets of GPU memory (CUDA IPC). The receiver is a second
copy of the model. Each way has two processes of its own; the weights that arrive are compared with those that were
sent. Extra memory is by how much the peak during publications is above what a process held before them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
import torch.multiprocessing as torch_multiprocessing
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from transformers import AutoModelForCausalLM

from benchmarks.figures import Figure, write_figures
from benchmarks.models import SHAPES, finish, machine, random_model
from learners.learner_settings import OptimizerSettings, PolicySettings
from learners.policy.shard import PolicyShard
from learners.policy.transport import WeightReceiver, WeightSender
from learners.policy.weight_update import serialize

BUCKET = 512 << 20
"""Bytes of GPU memory that are handed over at once."""
MEMORY = 1.1
"""What a broadcast is held to: extra memory of both sides, in model sizes."""
LIFE, PATIENCE_S = "engine/1", 600.0
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


def receive(way: str, model_dir: str, link: Connection, queue: Any) -> None:
    """The engine's side: takes weights until told to stop, and answers when they are in place."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = cast(nn.Module, AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.bfloat16)).to(device)
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()  # what is only mapped from the model's file would grow as it is written
    weights = parameters(model)
    receiver = WeightReceiver(0, 1)
    before = held()
    link.send("ready")
    while (order := link.recv()) != "stop":
        if way == "file":
            take_file(order, dict(weights))
        elif way == "broadcast":
            targets = dict(weights)
            host, port = order
            for name, tensor in receiver.receive(host, port, LIFE, PATIENCE_S):
                targets[name].copy_(tensor)
        else:
            for bucket in buckets(weights):
                flat = queue.get()
                unpack(flat, bucket)
                finish()
                del flat
                link.send("copied")
        finish()
        del order
        link.send(grown(before))
    link.send(checksum(weights))


def take_file(content: bytes, targets: dict[str, Tensor]) -> None:
    """Write the file to shared memory, load it, copy from it."""
    path = Path("/dev/shm" if Path("/dev/shm").is_dir() else tempfile.gettempdir()) / f"publication-{os.getpid()}"
    path.write_bytes(content)
    loaded = safetensors.torch.load_file(path)
    for name, target in targets.items():
        target.copy_(loaded[name])
    path.unlink()


def send(way: str, policy: PolicyShard, sender: WeightSender, link: Any, queue: Any) -> Any:
    """The learner's side of one publication; the receiver's answer."""
    if way == "file":
        link.send(as_file(policy))
    elif way == "broadcast":
        link.send(sender.address())
        assert sender.send(policy.weights(), {"engine": (LIFE, 1)}, torch.bfloat16, PATIENCE_S) == {}
    else:
        link.send("go")
        for bucket in buckets(parameters(policy.model.causal_lm)):
            flat = packed(bucket)
            finish()
            queue.put(flat)
            link.recv()
    return link.recv()


def as_file(policy: PolicyShard) -> bytes:
    """All weights in bfloat16 as one safetensors file."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = cast(dict[str, Tensor], get_model_state_dict(policy.model, options=options))
    return serialize({name.removeprefix("lm."): tensor.bfloat16().contiguous() for name, tensor in state.items()})


def checksum(weights: list[tuple[str, Tensor]]) -> float:
    """The sum of all weights, rounded to bfloat16."""
    return float(sum(tensor.bfloat16().double().sum() for _, tensor in weights))


def held() -> tuple[float, float]:
    """MiB that this process holds now, and GPU memory of it; both peaks begin anew from there."""
    with suppress(OSError):  # else the peak is that since the process began
        Path("/proc/self/clear_refs").write_text("5")
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return status("VmRSS"), torch.cuda.memory_allocated() / 2**20 if torch.cuda.is_available() else 0.0


def status(field: str) -> float:
    """A line of the kernel's account of this process, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def grown(before: tuple[float, float]) -> dict[str, int]:
    """MiB of both peaks above what was held."""
    device = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else 0.0
    return {"host_mib": round(status("VmHWM") - before[0]), "device_mib": round(device - before[1])}


def publish(way: str, model_dir: str, repeats: int, answer: Connection) -> None:
    """One way, in a process of its own: the result is sent to `answer`."""
    ours, theirs = SPAWN.Pipe()
    queue = SPAWN.Queue()
    receiver = SPAWN.Process(target=receive, args=(way, model_dir, theirs, queue))
    receiver.start()
    policy, sender = PolicyShard(PolicySettings(model=model_dir, dtype="bfloat16"), OptimizerSettings()), WeightSender()
    ours.recv()
    for parameter in policy.model.parameters():
        parameter.data.mul_(0.5)  # what arrives must differ from what the receiver loaded
    before, seconds = held(), []
    for _ in range(repeats):
        started = time.perf_counter()
        received = send(way, policy, sender, ours, queue)
        seconds.append(time.perf_counter() - started)
    extra = {"sender": grown(before), "receiver": received}
    ours.send("stop")
    expected, found = checksum(parameters(policy.model.causal_lm)), ours.recv()
    equal = abs(found - expected) <= 1e-6 * max(1.0, abs(expected))
    answer.send({"seconds": round(min(seconds), 4), **extra, "equal": equal})
    receiver.join()


def figures(rows: list[dict[str, Any]]) -> list[Figure]:
    """Of each shape and way that arrived whole: seconds, and extra memory of both sides together."""
    found = []
    for row in rows:
        if not row.get("equal"):
            continue
        name = f"{row['shape']}, {row['way']}"
        extra = sum(row[side][where] for side in ("sender", "receiver") for where in ("host_mib", "device_mib"))
        goal = MEMORY if row["way"] == "broadcast" else None
        found.append(Figure(f"{name}: publication", row["seconds"], "s"))
        found.append(Figure(f"{name}: extra memory", extra / row["model_mib"], "times the model's size", at_most=goal))
    return found


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=["135m"])
    parser.add_argument("--repeats", type=int, default=3, help="publications; the fastest counts")
    parser.add_argument("--out", type=Path, help="JSON file")
    return parser


def main() -> None:
    arguments = make_parser().parse_args()
    cuda = torch.cuda.is_available()
    about, rows = machine(), []
    for shape in arguments.shape:
        with tempfile.TemporaryDirectory(prefix="concerto-bench-") as folder:
            model = random_model(shape, Path(folder), torch.device("cuda" if cuda else "cpu"))
            size = sum(file.stat().st_size for file in model.glob("*.safetensors")) / 2**20
            for way in ("file", "broadcast", "ipc")[: 3 if cuda else 2]:
                listen, tell = multiprocessing.Pipe(duplex=False)
                work = SPAWN.Process(target=publish, args=(way, str(model), arguments.repeats, tell))
                work.start()
                tell.close()
                try:
                    row = {"shape": shape, "model_mib": round(size, 2), "way": way} | listen.recv()
                except EOFError:
                    row = {"shape": shape, "way": way, "error": "the process died; see above"}
                work.join()
                rows.append(row)
                print("  ".join(f"{key}={value}" for key, value in row.items()), flush=True)
                write_figures(arguments.out, "publication", figures(rows), machine=about, rows=rows)
    if not all(row.get("equal") for row in rows):
        raise SystemExit("not everything arrived as it was sent: see the rows without equal=True")


if __name__ == "__main__":
    main()
