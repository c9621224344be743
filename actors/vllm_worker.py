"""What lives inside vLLM's own processes: executors, and the loading of published weights. Imports vLLM.

An engine on one GPU, or on a CPU, is two processes: the actor, and vLLM's engine core with the worker inside it
(`SoloExecutor`), which saves a hop per forward pass against vLLM's default on a CPU and half of the start-up time. An
engine on several GPUs has a worker process for each beside its core (`ParallelExecutor`). However one of them ends, the
others end too: workers with the core, the core with the actor, and the core with its first worker that is gone.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, cast

import torch
from vllm.model_executor.layers.fused_moe.fused_moe_method_base import FusedMoEMethodBase
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.platforms import current_platform
from vllm.v1.executor.abstract import Executor
from vllm.v1.executor.multiproc_executor import MultiprocExecutor
from vllm.v1.executor.uniproc_executor import UniProcExecutor

from actors.engine_process import die_with_parent, log_file
from learners.policy.transport import WeightReceiver

logger = logging.getLogger("vllm.concerto")
"""Below vLLM's own, whose errors are kept; see `_write_errors`."""


class SoloExecutor(UniProcExecutor):
    """The worker inside the engine core's process.

    A class of our own also keeps the CPU platform from moving the worker into a third process.
    """

    def _init_executor(self) -> None:
        own = _own(self.vllm_config)
        _follow_actor(own)
        if current_platform.is_cpu():
            torch.set_num_threads(own["cpu_threads"])
        super()._init_executor()


class ParallelExecutor(MultiprocExecutor):
    """A process for each worker; together they hold the model once."""

    _closing = False

    def _init_executor(self) -> None:
        _follow_actor(_own(self.vllm_config))
        super()._init_executor()
        if current_platform.is_cpu():
            self.collective_rpc("forget_shared_memory")

    def start_worker_monitor(self, inline: bool = False) -> None:
        """End this process, and so the others, with the first worker that ends. vLLM's own monitor lets it go on for
        seconds, in which calls fail as if the engine lived."""
        assert not inline  # a choice for nodes without an engine core
        threading.Thread(target=self._die_with_worker, daemon=True, name="die-with-worker").start()

    def _die_with_worker(self) -> None:
        ended = wait([worker.proc.sentinel for worker in self.workers])
        if not self._closing:
            names = ", ".join(worker.proc.name for worker in self.workers if worker.proc.sentinel in ended)
            logger.error("%s ended, and the engine with it", names)
            os.kill(os.getpid(), signal.SIGKILL)

    def shutdown(self) -> None:
        """End all workers at once: they hold nothing that an orderly end would save, and take seconds for one."""
        self._closing = True
        for worker in getattr(self, "workers", ()):
            worker.proc.kill()
        super().shutdown()


def executor(tensor_parallel: int) -> type[Executor]:
    """The executor of an engine of so many workers."""
    return SoloExecutor if tensor_parallel == 1 else ParallelExecutor


class WorkerExtension:
    """Mixed into vLLM's worker through `worker_extension_cls`."""

    model_runner: Any
    parallel_config: Any
    rank: int
    _receiver: WeightReceiver | None = None

    def __new__(cls, vllm_config: Any, rank: int, **_: Any) -> WorkerExtension:
        """A worker in a process of its own follows the engine core, and leaves its last words. Here, since vLLM's own
        `__init__` calls no other, and later it would be too late for a model that does not load."""
        if vllm_config.parallel_config.world_size > 1:
            _follow_parent(None)
            _write_errors(log_file(Path(_own(vllm_config)["directory"]), rank))
        return super().__new__(cls)

    def forget_shared_memory(self) -> None:
        """Unlink the memory in which workers on a CPU add up their shares of a layer: it lasts as long as one of them
        has it open, and no longer, even if all are killed."""
        for segment in Path("/dev/shm").glob(f"{os.environ['VLLM_DIST_IDENT']}-*"):
            segment.unlink(missing_ok=True)

    def take_weights(self, host: str, port: int, life: str, timeout_s: float) -> None:
        """Put what the learner sends in place of the present weights; see `WeightReceiver.receive`. Each of several
        workers receives all of it, a bucket at a time, and vLLM's loaders keep the worker's own shard of each tensor.

        On a CPU vLLM keeps a packed copy of every matrix for its kernels and makes a new one when a layer is loaded. A
        head that is tied to the embedding is never loaded itself, so its copy has to be made anew here; otherwise the
        engine goes on sampling with the old head. On a GPU there is no copy and this costs nothing.

        Experts it packs in place, but only while they have no kernel; afterwards the kernel would read plain weights as
        packed ones. So each gets a new kernel. On a GPU kernels are kept: its graphs hold their addresses.
        """
        if current_platform.is_cpu():
            for module in self.model_runner.get_model().modules():
                if isinstance(method := getattr(module, "quant_method", None), FusedMoEMethodBase):
                    method.moe_kernel = None
        self._receiver = self._receiver or WeightReceiver(self.rank, self.parallel_config.world_size)
        weights = self._receiver.receive(host, port, life, timeout_s)
        self.reload_weights(weights_iterator=weights)  # type: ignore[attr-defined]
        for module in self.model_runner.get_model().modules():
            if isinstance(module, ParallelLMHead):
                module.quant_method.process_weights_after_loading(module)


EXTENSION = f"{__name__}.{WorkerExtension.__name__}"


def _own(config: Any) -> dict[str, Any]:
    """Our own part of vLLM's configuration."""
    return cast(dict[str, Any], config.additional_config)["concerto"]


def _follow_actor(own: dict[str, Any]) -> None:
    """Have this process, the engine core's, end with the actor and leave its last words."""
    directory = Path(own["directory"])
    _follow_parent(directory)
    _write_errors(log_file(directory))


def _follow_parent(directory: Path | None) -> None:
    threading.Thread(target=die_with_parent, args=(directory,), daemon=True, name="die-with-parent").start()


def _write_errors(file: Path) -> None:
    handler = logging.FileHandler(file)
    handler.setLevel(logging.ERROR)
    logging.getLogger("vllm").addHandler(handler)
