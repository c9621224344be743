"""`LearnerPool`: learner workers under Ray Train that execute commands.

Ray Train owns the processes (placement, process group, dashboard tab). Its train function hosts one `LearnerWorker` a
rank and takes commands from a mailbox actor, so the coordinator stays in charge of the loop. When one worker dies, all
end: the pool's owner starts another pool, and goes on from a checkpoint of the whole run.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import ray
import ray.exceptions
import torch
import torch.distributed as dist
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from learners.learner_settings import LearnerSettings
from learners.workers.losses import told_as_lost
from learners.workers.mailbox import Command, Mailbox, Outcome
from learners.workers.process import keep_freed_memory, multiply_with_onednn
from trajectories.errors import ConcertoError, RunError, WorkersLost, first_line

STOP_TIMEOUT_S = 60.0


class Pool(Protocol):
    """The learner workers, seen as one."""

    def start(self, timeout_s: float) -> None:
        """Wait until each has loaded the model."""
        ...

    async def call(self, method: str, *arguments: Any, timeout_s: float = 1800.0) -> list[Any]:
        """Run a method of LearnerWorker on every worker; the results in order of rank."""
        ...

    async def call_refs(self, method: str, *arguments: Any, timeout_s: float = 1800.0) -> list[Any]:
        """Like `call`, but gives references to the results."""
        ...

    def stop(self) -> None:
        """Let the workers end."""
        ...


class LearnerPool:
    """Workers under Ray Train. `start`, then `call` any method of LearnerWorker, then `stop`."""

    def __init__(
        self,
        config: LearnerSettings,
        *,
        run_name: str,
        storage: Path,
        num_workers: int = 1,
        resources_per_worker: Mapping[str, float] | None = None,
    ) -> None:
        """
        Args:
            storage: directory for Ray Train's own files; seen by all nodes.
            resources_per_worker: Ray resources; a `GPU` share above 0 puts the worker on a GPU.
        """
        path = Path(config.policy.model)
        if path.exists():  # Ray Train runs its workers in a directory of their own
            config = config.model_copy(
                update={"policy": config.policy.model_copy(update={"model": str(path.resolve())})}
            )
        self._config = config
        self._run_name = run_name
        self._storage = storage
        self._num_workers = num_workers
        self._resources = dict(resources_per_worker or {"CPU": 1})
        self._mailbox: Any = None
        self._thread: threading.Thread | None = None

    def start(self, timeout_s: float = 300.0) -> None:
        """Start the workers and wait until each has loaded the model.

        Raises:
            WorkersLost: they were not ready in time, or died; says what was waited for.
            ConcertoError: a worker cannot load the model: another start would end in the same way.
        """
        name = f"concerto:{self._run_name}:learner"
        # Ray Train has no other place for its limit. A little later than ours, whose message says more.
        os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(timeout_s + 5)
        # Beside the coordinator: what it says must not go with another node.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        options = {"name": name, "num_cpus": 0, "scheduling_strategy": here}
        self._mailbox = ray.remote(Mailbox).options(**options).remote(self._num_workers)
        gpu = self._resources.get("GPU", 0) > 0
        trainer = TorchTrainer(
            _serve,
            train_loop_config={"mailbox": self._mailbox, "config": self._config},
            scaling_config=ScalingConfig(
                num_workers=self._num_workers, use_gpu=gpu, resources_per_worker=self._resources
            ),
            run_config=RunConfig(
                name=f"concerto-{self._run_name}-learner",
                storage_path=str(self._storage.resolve()),
                # Without a controller limit Ray Train would look for room for ever.
                failure_config=FailureConfig(max_failures=0, controller_failure_limit=0),
            ),
        )
        self._thread = threading.Thread(target=_fit, args=(trainer, self._mailbox), name=name, daemon=True)
        self._thread.start()
        with told_as_lost("the mailbox of the learner workers"):
            missing = ray.get(self._mailbox.wait_joined.remote(timeout_s))
        if isinstance(missing, ConcertoError):
            raise missing
        if missing:
            raise WorkersLost(f"the learner pool did not start: {missing} (each needs {self._resources})")

    async def call(self, method: str, *arguments: Any, timeout_s: float = 1800.0) -> list[Any]:
        """Run a method of LearnerWorker on every worker; the results in order of rank.

        Object references among the arguments, also in lists, are resolved by the workers.

        Raises:
            WorkersLost: a worker raised, died or did not answer in time.
            ConcertoError: what a worker raised of ours, as StorageError; the workers have ended then too.
        """
        results = await self.call_refs(method, *arguments, timeout_s=timeout_s)
        with told_as_lost(f"{method}: what the learner workers answered"):
            return await asyncio.gather(*results)

    async def call_refs(self, method: str, *arguments: Any, timeout_s: float = 1800.0) -> list[ray.ObjectRef]:
        """Like `call`, but the results stay in the object store: for what other actors read."""
        with told_as_lost("the mailbox of the learner workers"):
            outcome: Outcome = await self._mailbox.call.remote(method, arguments, timeout_s)
        if isinstance(outcome.error, ConcertoError):
            raise outcome.error
        if outcome.error:
            raise WorkersLost(f"{method}: {outcome.error}")
        return outcome.results

    def stop(self) -> None:
        """Let the workers end and free their resources. Harmless where nothing runs.

        Raises:
            WorkersLost: they did not end in time.
        """
        if self._thread is None:
            return
        thread, self._thread = self._thread, None
        try:
            with contextlib.suppress(ray.exceptions.RayActorError):  # then the workers have learned it, and end
                ray.get(self._mailbox.stop.remote())
            thread.join(STOP_TIMEOUT_S)
            if thread.is_alive():
                raise WorkersLost(f"the learner workers did not end within {STOP_TIMEOUT_S:.0f} s")
        finally:
            ray.kill(self._mailbox)  # its name must be free for those that start next


def _fit(trainer: TorchTrainer, mailbox: Any) -> None:
    """Run the train function to its end and tell the mailbox why it ended."""
    reason = "the learner pool was stopped"
    try:
        trainer.fit()
    except Exception as error:  # whatever ended the run must reach whoever waits for an answer
        reason = f"the learner workers died: {error}"
    with contextlib.suppress(ray.exceptions.RayError):  # the cluster is being shut down: nobody waits
        ray.get(mailbox.end.remote(reason))


def _serve(loop_config: dict[str, Any]) -> None:
    """Train function: one worker, commands until told to stop."""
    # Here, because it takes seconds that only this process should pay.
    from learners.workers.worker import LearnerWorker

    mailbox, rank = loop_config["mailbox"], dist.get_rank() if dist.is_initialized() else 0
    keep_freed_memory()
    multiply_with_onednn()
    try:
        worker = LearnerWorker(loop_config["config"])
    except (MemoryError, torch.OutOfMemoryError):
        raise  # others may have it free next time: worth another start
    except Exception as raised:
        words = f"learner worker {rank} cannot start: {type(raised).__name__}: {first_line(raised)}"
        ray.get(mailbox.refuse.remote(raised if isinstance(raised, ConcertoError) else RunError(words)))
        raise
    ray.get(mailbox.join.remote(rank))
    done = 0
    while True:
        command: Command | str | None = ray.get(mailbox.next.remote(done))
        if command is None:
            continue
        if isinstance(command, str):
            return
        try:
            result = getattr(worker, command.method)(*map(_resolved, command.arguments))
        except Exception as raised:
            # The others may be waiting for this rank inside a collective: report, then end them all.
            error = raised if isinstance(raised, ConcertoError) else f"rank {rank}: {traceback.format_exc()}"
            ray.get(mailbox.reply.remote(command.number, rank, [], error))
            raise
        ray.get(mailbox.reply.remote(command.number, rank, [ray.put(result)], None))
        done = command.number


def _resolved(argument: Any) -> Any:
    if isinstance(argument, ray.ObjectRef):
        return ray.get(argument)
    return [_resolved(item) for item in argument] if isinstance(argument, list) else argument
