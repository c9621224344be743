"""ALFWorld as an `Environment`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from envs.alfworld.explorer import Explorer
from envs.alfworld.library import GameLibrary
from envs.alfworld.native.engine import NativeEngine, NativeGame
from envs.alfworld.native.pddl import UnsupportedConstruct
from envs.alfworld.progress import covered_way, met_conditions
from envs.alfworld.settings import AlfworldSettings
from envs.base import Observation, StepResult
from trajectories.errors import UserError, first_line

DEFAULTS = AlfworldSettings()
EFFICIENCY_TURNS = 50
"""Turns within which a solved task still earns efficiency; the usual episode limit of ALFWorld."""

COMPILED_GAMES = 64
"""Compiled games that a process keeps, of all its environments: a group of rollouts resets one game many times, each
member in an environment of its own."""


class GameEngine(Protocol):
    """What plays a compiled game: the native engine, or stock TextWorld."""

    @property
    def admissible_commands(self) -> tuple[str, ...]: ...

    @property
    def won(self) -> bool: ...

    @property
    def goal_progress(self) -> float: ...

    @property
    def state_hash(self) -> int: ...

    def reset(self, game: Any) -> str: ...

    def step(self, command: str) -> str: ...


def open_environment(data: str | Path | None = None, settings: AlfworldSettings = DEFAULTS) -> AlfworldEnvironment:
    """What `envs.make_environment("alfworld", ...)` calls. Raises UserError."""
    return AlfworldEnvironment.open(data, settings)


def open_tasks(data: str | Path | None = None, settings: AlfworldSettings = DEFAULTS) -> GameLibrary:
    """The games, for task panels; the same with any settings. Raises UserError."""
    return GameLibrary.open(data)


class AlfworldEnvironment:
    """One household game at a time; `observation.text` is exactly what TextWorld returns.

    Rewards of one step:
        success: 1.0 on the step that solves the task, else 0.0.
        progress: change in the share of goal conditions that are met, or of the way to the goal that is covered, by
            `AlfworldSettings.progress`; sums up to the share at the end of the episode minus the share at its start.
            (Stock TextWorld knows only solved or not.)
        format: 1.0 if the action is one non-empty line, else 0.0.
        action_validity: 1.0 if the action was admissible, else 0.0.
        efficiency: on the step that solves the task after t turns, max(0, 1 - (t - 1) / 50), else 0.0.
    """

    reward_names = ("success", "progress", "format", "action_validity", "efficiency")

    def __init__(self, library: GameLibrary, settings: AlfworldSettings = DEFAULTS) -> None:
        """Play the games of `library`.

        Raises:
            UserError: TextWorld is not installed, or asked for distances.
        """
        if settings.progress == "distance" and settings.engine != "native":
            raise UserError(
                f"engine {settings.engine!r} knows no distances: leave environments.alfworld.progress at conditions, "
                "or the engine at native"
            )
        self._game_type, engine_type = _load_engine(settings.engine)
        self._come = covered_way if settings.progress == "distance" else met_conditions
        self._library = library
        self._engine: GameEngine = engine_type()
        self._task_id = ""
        self._turns = 0
        self._playing = False

    @classmethod
    def open(cls, data: str | Path | None = None, settings: AlfworldSettings = DEFAULTS) -> AlfworldEnvironment:
        """On the games that `GameLibrary.open(data)` finds, shared with the process's other environments. Raises
        UserError."""
        return cls(GameLibrary.shared(data), settings)

    def reset(self, task_id: str, seed: int = 0) -> Observation:
        """Start a game. The games know no chance: `seed` changes nothing.

        Raises:
            UserError: the game is not in the library, or damaged.
        """
        self._task_id = task_id
        with _named(task_id):
            text = self._engine.reset(_compiled(self._library, self._game_type, task_id))
        self._turns = 0
        self._playing = not self._engine.won
        return self._observation(text)

    def step(self, action: str) -> StepResult:
        if not self._playing:
            raise RuntimeError("the episode is over or has not begun: call reset(task_id) first")
        command = action.strip()
        valid = command in self._engine.admissible_commands
        before = self._come(self._engine)
        with _named(self._task_id):
            text = self._engine.step(command)
        self._turns += 1
        won = self._engine.won
        self._playing = not won
        rewards = {
            "success": float(won),
            "progress": self._come(self._engine) - before,
            "format": float(bool(command) and len(command.splitlines()) == 1),
            "action_validity": float(valid),
            "efficiency": max(0.0, 1.0 - (self._turns - 1) / EFFICIENCY_TURNS) if won else 0.0,
        }
        info = {"action_valid": valid, "state_hash": self._engine.state_hash}
        return StepResult(self._observation(text), rewards, done=won, info=info)

    def expert(self, seed: int = 0) -> Explorer:
        """The text-only expert for `envs.experts.play_expert`."""
        return Explorer(seed)

    def close(self) -> None:
        self._playing = False

    def _observation(self, text: str) -> Observation:
        return Observation(text, tuple(self._engine.admissible_commands))


@lru_cache(maxsize=COMPILED_GAMES)
def _compiled(library: GameLibrary, game_type: Any, task_id: str) -> Any:
    """A game ready to play, for any number of environments. Raises UserError."""
    game = library.read(task_id)
    try:
        return game_type.compile(game.domain, game.problem, game.grammar)
    except UnsupportedConstruct:
        raise
    except (UserError, LookupError, TypeError, ValueError, RecursionError) as error:  # in texts of any kind
        reason = first_line(error) if isinstance(error, UserError) else f"{type(error).__name__}: {first_line(error)}"
        raise UserError(
            f"the game {task_id} cannot be played ({reason}): its file is damaged; fetch the games again with "
            "`concerto data alfworld`"
        ) from error


@contextmanager
def _named(task_id: str) -> Iterator[None]:
    """Says which game it is that the native engine does not play."""
    try:
        yield
    except UnsupportedConstruct as error:
        raise UserError(
            f"the game {task_id} cannot be played ({first_line(error)}): if it is no game of your own, fetch the games "
            "again with `concerto data alfworld`, else set environments.alfworld.engine=textworld"
        ) from error


def _load_engine(name: str) -> tuple[Any, Any]:
    """The classes (compiled game, engine). TextWorld is imported only where it is asked for."""
    if name == "textworld":
        from envs.alfworld.textworld_engine import TextWorldEngine, TextWorldGame

        return TextWorldGame, TextWorldEngine
    return NativeGame, NativeEngine
