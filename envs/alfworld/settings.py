"""The options of ALFWorld."""

from __future__ import annotations

from typing import ClassVar, Literal

from envs.settings import EnvironmentSettings


class AlfworldSettings(EnvironmentSettings):
    """Options of ALFWorld."""

    same_task: ClassVar[frozenset[str]] = frozenset({"engine", "progress"})

    engine: Literal["native", "textworld"] = "native"
    """What plays the games: `native` is this project's engine, `textworld` stock TextWorld (`pip install
    'concerto[reference]'`). Both say the same, so panels and evaluations of both compare. Tuning: leave it at `native`,
    which is far faster; `textworld` is for a comparison."""

    progress: Literal["conditions", "distance"] = "conditions"
    """What the reward `progress` counts. `conditions`: the share of the goal's conditions that are met. `distance`: how
    much nearer the goal is, in commands of a shortest plan, as a share of the whole way (native engine only; some
    milliseconds for a state that was not seen before). Tuning: `conditions`; `distance` where success is rare in
    training. Evaluations with it compare in all but `progress`."""
