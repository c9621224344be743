"""Text environments for language-model agents: `make_environment`, `load_panel`.

    env = make_environment("alfworld", data=PATH_OR_NONE)     # None: the embedded games
    observation = env.reset(task_id, seed=0)
    step = env.step("go to desk 1")
    panel = load_panel("alfworld/valid_seen", data=PATH)

An environment named in `ENVIRONMENTS` lives in a module with two functions: `open_environment(data, **options)` gives
an `Environment`, `open_tasks(data)` its `TaskSource`. Both are imported only when asked for.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from envs.base import Environment, Observation, StepResult
from envs.panels import Panel, TaskSource, make_panel
from trajectories.errors import UserError

__all__ = [
    "ENVIRONMENTS",
    "Environment",
    "Observation",
    "Panel",
    "StepResult",
    "TaskSource",
    "UserError",
    "heldout_panel",
    "load_panel",
    "make_environment",
    "training_panel",
]

ENVIRONMENTS = {
    "alfworld": "envs.alfworld.environment",
    "questions": "envs.questions.environment",
    "webshop": "envs.webshop.environment",
}


def make_environment(name: str, data: str | Path | None = None, **options: Any) -> Environment:
    """Open an environment in this process.

    Args:
        name: a key of `ENVIRONMENTS`.
        data: file or folder with the environment's data; None means what is embedded or installed.
        options: the environment's own; for alfworld `engine="native"` or `"textworld"`.

    Raises:
        UserError: unknown name, or the data are missing or damaged.
    """
    return _module(name).open_environment(data, **options)


def load_panel(name: str, data: str | Path | None = None) -> Panel:
    """The fixed task list of one split, for example `alfworld/valid_seen` or `alfworld/generated/heldout`.

    Raises:
        UserError: unknown environment or split, or the data are missing or damaged.
    """
    environment, _, split = name.partition("/")
    return make_panel(environment, split, _module(environment).open_tasks(data))


def training_panel(name: str, data: str | Path | None = None) -> Panel:
    """The panel to train on: that of `name`, or, where `name` is an environment only, the environment's own choice.

    Raises:
        UserError: as `load_panel`.
    """
    return load_panel(name if "/" in name else f"{name}/{_module(name).open_tasks(data).train_split}", data)


def heldout_panel(environment: str, data: str | Path | None = None) -> Panel:
    """The panel that a run evaluates, by the environment's own choice. Raises UserError."""
    return load_panel(f"{environment}/{_module(environment).open_tasks(data).heldout_split}", data)


def _module(name: str) -> ModuleType:
    if name not in ENVIRONMENTS:
        raise UserError(f"unknown environment {name!r}; choose one of {', '.join(sorted(ENVIRONMENTS))}")
    return import_module(ENVIRONMENTS[name])
