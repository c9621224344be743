"""`EnvironmentSettings`: the options of an environment, which a run sets as `environments.<name>.<option>`."""

from __future__ import annotations

from typing import Any, ClassVar

from trajectories.settings import Settings


class EnvironmentSettings(Settings):
    """Base of the options of an environment; each has its own class in `envs/<name>/settings.py`."""

    same_task: ClassVar[frozenset[str]] = frozenset()
    """Options that change how a task is played on the machine, not which task it is."""

    def task_options(self) -> dict[str, Any]:
        """Options that make other tasks of the same ids, where they are not the defaults: part of every panel's hash
        and of evaluation files."""
        return self.model_dump(exclude_defaults=True, exclude=set(self.same_task))
