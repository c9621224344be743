"""`LearnerGroup`: a Ray Train worker group whose workers execute commands.

Ray Train owns the processes (placement, process group, restarts, dashboard tab). Its train function hosts one
`LearnerWorker` a rank and takes commands from a mailbox actor, so the coordinator stays in charge of the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import traceback
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
import ray.exceptions
import torch.distributed as dist
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from learners.config import LearnerConfig
from learners.worker import LearnerWorker

POLL_SECONDS = 10.0
"""A worker asks for its next command at least this often; only bounds how long one request stays open."""


class LearnerError(Exception):
    """The group could not do what was asked; the message holds the worker's own words."""


class LearnerRestarted(LearnerError):
    """The workers died and were restarted from `checkpoint` (None: from the initial model); the command is lost."""

    def __init__(self, message: str, checkpoint: str | None) -> None:
        super().__init__(message)
        self.checkpoint = checkpoint


@dataclass(frozen=True, slots=True)
class _Command:
    number: int
    method: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class _Outcome:
    """Of a command: one reference a rank, or what went wrong."""

    results: list[Any] = field(default_factory=list)
    error: str | None = None
    restarted: bool = False
    checkpoint: str | None = None


class _Mailbox:
    """Async actor between the coordinator and the ranks: one command at a time, one reply a rank.

    Ranks of one start of the train function share an attempt id; a new id means that Ray Train restarted them.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._attempt = ""
        self._joined: set[int] = set()
        self._command: _Command | None = None
        self._replies: dict[int, Any] = {}
        self._error: str | None = None
        self._restarted = False
        self._ended: str | None = None
        self._stopping = False
        self._checkpoint: str | None = None
        self._changed = asyncio.Condition()
        self._turn = asyncio.Lock()

    async def join(self, attempt: str) -> str | None:
        """A rank has started; returns the checkpoint that it must restore first."""
        async with self._changed:
            if attempt != self._attempt:
                self._restarted = self._attempt != ""
                self._attempt, self._joined, self._command = attempt, set(), None
                self._changed.notify_all()
            return self._checkpoint

    async def ready(self, attempt: str, rank: int) -> None:
        """A rank has built its worker."""
        async with self._changed:
            if attempt == self._attempt:
                self._joined.add(rank)
                self._changed.notify_all()

    async def next(self, attempt: str, after: int) -> _Command | str | None:
        """The command with a number above `after`; "stop"; or None when there was none for a while."""

        def news() -> _Command | str | None:
            if self._stopping or attempt != self._attempt:
                return "stop"
            return self._command if self._command and self._command.number > after else None

        return await self._wait(news, POLL_SECONDS)

    async def reply(self, attempt: str, number: int, rank: int, result: list[Any], error: str | None) -> None:
        """A rank's answer: a list with one reference, or the error's text."""
        async with self._changed:
            if attempt == self._attempt and self._command and self._command.number == number:
                self._error = self._error or error
                self._replies[rank] = result
                self._changed.notify_all()

    async def wait_ready(self, timeout_s: float) -> str | None:
        """None once all ranks are ready, else what is missing."""

        def news() -> bool:
            return len(self._joined) == self._workers or self._ended is not None

        if await self._wait(news, timeout_s) and self._ended is None:
            return None
        return self._ended or f"{len(self._joined)} of {self._workers} workers were ready after {timeout_s:.0f} s"

    async def call(self, method: str, arguments: tuple[Any, ...], timeout_s: float) -> _Outcome:
        """Run a method on every rank. A restart since the last call is told first, before anything is done."""
        async with self._turn:
            async with self._changed:
                if self._restarted:
                    self._restarted = False
                    return _Outcome(restarted=True, checkpoint=self._checkpoint)
                number = self._command.number + 1 if self._command else 1
                self._command = _Command(number, method, arguments)
                self._replies, self._error = {}, None
                self._changed.notify_all()
            done = await self._wait(self._call_ended, timeout_s)
            if self._restarted:
                self._restarted = False
                return _Outcome(restarted=True, checkpoint=self._checkpoint)
            if self._error or self._ended:
                return _Outcome(error=self._error or self._ended)
            if not done:
                missing = sorted(set(range(self._workers)) - set(self._replies))
                return _Outcome(error=f"ranks {missing} gave no answer within {timeout_s:.0f} s")
            if method in ("save", "restore"):
                self._checkpoint = str(arguments[0])
            return _Outcome([self._replies[rank][0] for rank in range(self._workers)])

    async def stop(self) -> None:
        """Let the train function return on every rank."""
        async with self._changed:
            self._stopping = True
            self._changed.notify_all()

    async def end(self, reason: str) -> None:
        """The train run is over, for this reason: nobody will answer any more."""
        async with self._changed:
            self._ended = reason
            self._changed.notify_all()

    def _call_ended(self) -> bool:
        return len(self._replies) == self._workers or bool(self._error) or self._restarted or self._ended is not None

    async def _wait(self, news: Any, timeout_s: float) -> Any:
        async with self._changed:
            try:
                return await asyncio.wait_for(self._changed.wait_for(news), timeout_s)
            except TimeoutError:
                return None


class LearnerGroup:
    """Workers under Ray Train. `start`, then `call` any method of LearnerWorker, then `stop`."""

    def __init__(
        self,
        config: LearnerConfig,
        *,
        run_name: str,
        storage: Path,
        num_workers: int = 1,
        resources_per_worker: Mapping[str, float] | None = None,
        max_failures: int = 1,
    ) -> None:
        """
        Args:
            storage: directory for Ray Train's own files; seen by all nodes.
            resources_per_worker: Ray resources; a `GPU` share above 0 puts the worker on a GPU.
            max_failures: how often the workers may die and be restarted from the last `save` of this group.
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
        self._max_failures = max_failures
        self._mailbox: Any = None
        self._thread: threading.Thread | None = None

    def start(self, timeout_s: float = 300.0) -> None:
        """Start the workers and wait until each has loaded the model.

        Raises:
            LearnerError: they were not ready in time, or died; says what was waited for.
        """
        name = f"concerto:{self._run_name}:learner"
        # Ray Train has no other place for its limit. A little later than ours, whose message says more.
        os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(timeout_s + 5)
        self._mailbox = ray.remote(_Mailbox).options(name=name, num_cpus=0).remote(self._num_workers)
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
                failure_config=FailureConfig(max_failures=self._max_failures, controller_failure_limit=0),
            ),
        )
        self._thread = threading.Thread(target=_fit, args=(trainer, self._mailbox), name=name, daemon=True)
        self._thread.start()
        missing = ray.get(self._mailbox.wait_ready.remote(timeout_s))
        if missing:
            raise LearnerError(f"the learner group did not start: {missing} (each needs {self._resources})")

    async def call(self, method: str, *arguments: Any, timeout_s: float = 1800.0) -> list[Any]:
        """Run a method of LearnerWorker on every worker; the results in order of rank.

        Object references among the arguments, also in lists, are resolved by the workers.

        Raises:
            LearnerError: a worker raised, or did not answer in time.
            LearnerRestarted: the workers died and came back with the state of the last `save`.
        """
        return await asyncio.gather(*await self.call_refs(method, *arguments, timeout_s=timeout_s))

    async def call_refs(self, method: str, *arguments: Any, timeout_s: float = 1800.0) -> list[ray.ObjectRef]:
        """Like `call`, but the results stay in the object store: for weights."""
        outcome: _Outcome = await self._mailbox.call.remote(method, arguments, timeout_s)
        if outcome.restarted:
            where = outcome.checkpoint or "the initial model"
            raise LearnerRestarted(f"{method}: the learner workers died; restarted from {where}", outcome.checkpoint)
        if outcome.error:
            raise LearnerError(f"{method}: {outcome.error}")
        return outcome.results

    def stop(self, timeout_s: float = 60.0) -> None:
        """Let the workers end and free their resources. Harmless where nothing runs.

        Raises:
            LearnerError: they did not end in time.
        """
        if self._thread is None:
            return
        ray.get(self._mailbox.stop.remote())
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise LearnerError(f"the learner workers did not end within {timeout_s:.0f} s")
        ray.kill(self._mailbox)
        self._thread = None


def _fit(trainer: TorchTrainer, mailbox: Any) -> None:
    """Run the train function to its end and tell the mailbox why it ended."""
    reason = "the learner group was stopped"
    try:
        trainer.fit()
    except Exception as error:  # whatever ended the run must reach whoever waits for an answer
        reason = f"the learner workers died: {error}"
    with contextlib.suppress(ray.exceptions.RayError):  # the cluster is being shut down: nobody waits
        ray.get(mailbox.end.remote(reason))


def _serve(loop_config: dict[str, Any]) -> None:
    """Train function: one worker, commands until told to stop."""
    mailbox, attempt, rank = (
        loop_config["mailbox"],
        _shared_attempt_id(),
        dist.get_rank() if dist.is_initialized() else 0,
    )
    checkpoint: str | None = ray.get(mailbox.join.remote(attempt))
    worker = LearnerWorker(loop_config["config"])
    if checkpoint is not None:
        worker.restore(checkpoint)
    ray.get(mailbox.ready.remote(attempt, rank))
    done = 0
    while True:
        command: _Command | str | None = ray.get(mailbox.next.remote(attempt, done))
        if command is None:
            continue
        if isinstance(command, str):
            return
        try:
            result = getattr(worker, command.method)(*map(_resolved, command.arguments))
        except Exception:
            # The others may be waiting for this rank inside a collective: report, then end the attempt as a whole.
            error = f"rank {rank}: {traceback.format_exc()}"
            ray.get(mailbox.reply.remote(attempt, command.number, rank, [], error))
            raise
        ray.get(mailbox.reply.remote(attempt, command.number, rank, [ray.put(result)], None))
        done = command.number


def _shared_attempt_id() -> str:
    """A fresh id, the same on all ranks of this start."""
    box = [uuid.uuid4().hex]
    if dist.is_initialized():
        dist.broadcast_object_list(box)
    return box[0]


def _resolved(argument: Any) -> Any:
    if isinstance(argument, ray.ObjectRef):
        return ray.get(argument)
    return [_resolved(item) for item in argument] if isinstance(argument, list) else argument
