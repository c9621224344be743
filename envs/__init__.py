"""Text environments for language-model agents: `make_environment`, `load_panel`.

    env = make_environment("alfworld", data=PATH_OR_NONE)     # None: the embedded games
    env = make_environment("webshop", settings=WebShopSettings(observation_mode="text_rich"))
    observation = env.reset(task_id, seed=0)
    step = env.step("go to desk 1")
    panel = load_panel("alfworld/valid_seen", data=PATH)

An environment lives in a module with two functions: `open_environment(data)` gives an `Environment`, `open_tasks(data)`
its `TaskSource`. One that has options takes its settings behind the data in both. Its name is a key of `ENVIRONMENTS`,
or, for one of your own, the module's: `my_package.my_environment`; or that of an object in a module which has the two
functions, or is a class with the methods of Gymnasium (`envs.adapters`). Modules are imported only when asked for.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from envs.adapters.gymnasium import GymnasiumTasks, plays_like_gymnasium
from envs.base import Environment, Observation, StepResult
from envs.panels import Panel, TaskSource, make_panel
from envs.settings import EnvironmentSettings
from trajectories.errors import UserError, first_line

__all__ = [
    "ENVIRONMENTS",
    "Environment",
    "EnvironmentSettings",
    "Observation",
    "Panel",
    "StepResult",
    "TaskSource",
    "UserError",
    "heldout_panel",
    "is_known",
    "load_panel",
    "make_environment",
    "training_panel",
]

ENVIRONMENTS = {
    "alfworld": "envs.alfworld.environment",
    "questions": "envs.questions.environment",
    "webshop": "envs.webshop.environment",
}


FUNCTIONS = ("open_environment", "open_tasks")
"""What the module of an environment must have."""

Data = str | Path | None
"""File or folder with an environment's data; None means what is embedded or installed."""


def make_environment(name: str, data: Data = None, settings: EnvironmentSettings | None = None) -> Environment:
    """Open an environment in this process.

    Args:
        name: a key of `ENVIRONMENTS`, or the dotted name of a module or of an object in one.
        settings: the environment's own options, such as `AlfworldSettings(engine="textworld")`; None: its defaults.

    Raises:
        UserError: unknown name, or the data are missing or damaged.
    """
    return _module(name).open_environment(*_arguments(data, settings))


def load_panel(name: str, data: Data = None, settings: EnvironmentSettings | None = None) -> Panel:
    """The fixed task list of one split, for example `alfworld/valid_seen` or `alfworld/generated/heldout`.

    Raises:
        UserError: unknown environment or split, a split without tasks, or the data are missing or damaged.
    """
    environment, slash, split = name.partition("/")
    if not slash:
        raise UserError(f"{name!r} is no panel: write it as environment/split, e.g. alfworld/generated/heldout")
    tasks = _module(environment).open_tasks(*_arguments(data, settings))
    return make_panel(environment, split, tasks, settings.task_options() if settings is not None else {})


def training_panel(name: str, data: Data = None, settings: EnvironmentSettings | None = None) -> Panel:
    """The panel to train on: that of `name`, or, where `name` is an environment only, the environment's own choice.

    Raises:
        UserError: as `load_panel`.
    """
    if "/" not in name:
        name = f"{name}/{_module(name).open_tasks(*_arguments(data, settings)).train_split}"
    return load_panel(name, data, settings)


def heldout_panel(environment: str, data: Data = None, settings: EnvironmentSettings | None = None) -> Panel:
    """The panel that a run evaluates, by the environment's own choice. Raises UserError."""
    split = _module(environment).open_tasks(*_arguments(data, settings)).heldout_split
    return load_panel(f"{environment}/{split}", data, settings)


def _arguments(data: Data, settings: EnvironmentSettings | None) -> tuple[Any, ...]:
    return (data,) if settings is None else (data, settings)


def is_known(name: str) -> bool:
    """Whether it can be the name of an environment: one of ours, or of something in a module, whose dot tells it."""
    return name in ENVIRONMENTS or "." in name


def _module(name: str) -> Any:
    """What has the two `FUNCTIONS`. Raises UserError."""
    if not is_known(name):
        raise UserError(
            f"unknown environment {name!r}; choose one of {', '.join(sorted(ENVIRONMENTS))}, or name the module of "
            "your own, as my_package.my_environment"
        )
    if name in ENVIRONMENTS:
        return import_module(ENVIRONMENTS[name])
    try:
        found = _imported(name)
    except Exception as error:  # whatever the module of a user's own does when it is imported
        raise UserError(
            f"the environment {name} cannot be imported ({type(error).__name__}: {first_line(error)}): install its "
            "package, or add its folder to PYTHONPATH, on every node"
        ) from error
    if plays_like_gymnasium(found):
        return GymnasiumTasks(found)
    if missing := [function for function in FUNCTIONS if not hasattr(found, function)]:
        raise UserError(
            f"{name} is no environment: it lacks {' and '.join(missing)}, and is no class with Gymnasium's reset and "
            "step"
        )
    return found


def _imported(name: str) -> Any:
    """The module of this name, or else what the module has that the name stands in."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        module, _, attribute = name.rpartition(".")
        if error.name != name or not hasattr(import_module(module), attribute):
            raise
        return getattr(import_module(module), attribute)
