"""The options of ALFWorld."""

from __future__ import annotations

from typing import ClassVar, Literal

from envs.settings import EnvironmentSettings


class AlfworldSettings(EnvironmentSettings):
    """Options of ALFWorld."""

    same_task: ClassVar[frozenset[str]] = frozenset({"engine"})

    engine: Literal["native", "textworld"] = "native"
    """What plays the games: `native` is this project's engine, `textworld` stock TextWorld (`pip install
    'concerto[reference]'`). Both say the same, so panels and evaluations of both compare. Tuning: leave it at `native`,
    which is far faster; `textworld` is for a comparison."""
