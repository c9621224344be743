"""Task panels: fixed, ordered, hashed lists of tasks, so that two evaluations can prove they played the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from trajectories.errors import UserError


class TaskSource(Protocol):
    """What an environment tells about its tasks."""

    @property
    def train_split(self) -> str:
        """Trained on where nothing else is asked for."""
        ...

    @property
    def heldout_split(self) -> str:
        """Evaluated on during a run where nothing else is asked for; apart from `train_split`."""
        ...

    @property
    def test_splits(self) -> tuple[str, ...]:
        """Results are reported on these, so nothing may be chosen by them: no weights, no settings."""
        ...

    def task_ids(self, split: str) -> tuple[str, ...]:
        """All tasks of a split, in their fixed order; none where the data have none. Raises UserError if there is no
        such split."""
        ...

    def content_hash(self, task_id: str) -> str:
        """Changes whenever the task would play differently; equal on all machines and in all processes."""
        ...


@runtime_checkable
class Explaining(Protocol):
    """A `TaskSource` that knows why its data leave a split without tasks; no source has to."""

    def why_empty(self, split: str) -> str:
        """What was left out, how often and why, and what to do about it: the second half of a sentence."""
        ...


@dataclass(frozen=True, slots=True)
class Panel:
    """A fixed list of tasks.

    Attributes:
        name: `environment/split`.
        task_ids: in evaluation order.
        hash: SHA-256, in hex, over environment, split, ordered ids, the content of every task, and `options`.
        options: the environment's options that make other tasks of the same ids, where they are not the defaults.
        test: it is there to report results on, so nothing may be chosen by it.
    """

    name: str
    task_ids: tuple[str, ...]
    hash: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    test: bool = False

    @property
    def environment(self) -> str:
        return self.name.partition("/")[0]

    @property
    def split(self) -> str:
        """The name without the environment: `alfworld/generated/train` gives `generated/train`."""
        return self.name.partition("/")[2]


def make_panel(environment: str, split: str, tasks: TaskSource, options: Mapping[str, Any] | None = None) -> Panel:
    """The panel of a whole split, of one task or more; `options` as in `Panel`.

    Raises:
        UserError: there is no such split, it has no tasks, or a task is damaged.
    """
    task_ids = tasks.task_ids(split)
    if not task_ids:
        other = f"name another panel, or other data with data.{environment}=PATH"
        why = tasks.why_empty(split) if isinstance(tasks, Explaining) else other
        raise UserError(f"{environment}/{split} has no tasks: {why}")
    digest = hashlib.sha256()
    for part in (environment, split, *(f"{task_id}\0{tasks.content_hash(task_id)}" for task_id in task_ids)):
        digest.update(part.encode() + b"\n")
    if options:  # defaults leave the hash as it was before there were options
        digest.update(json.dumps(options, sort_keys=True).encode() + b"\n")
    test = split in tasks.test_splits
    return Panel(f"{environment}/{split}", task_ids, digest.hexdigest(), options or {}, test)
