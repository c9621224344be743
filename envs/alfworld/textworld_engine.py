"""Stock TextWorld behind the face of the native engine: the reference that the native one is compared with.

Slow (seconds a reset, a few steps a second), and TextWorld compiles C packages: an optional extra, `reference`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from trajectories.errors import UserError

try:
    import textworld  # pyright: ignore[reportMissingImports]
    from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
    from textworld.envs import PddlEnv  # pyright: ignore[reportMissingImports]
except ImportError as error:
    raise UserError(
        f"engine 'textworld' needs TextWorld and ALFWorld ({error}): pip install 'concerto[reference]'"
    ) from error


@dataclass(frozen=True)
class TextWorldGame:
    """A game as TextWorld's environment loads it."""

    content: dict[str, str]

    @classmethod
    def compile(cls, domain: str, problem: str, grammar: str) -> TextWorldGame:
        return cls({"pddl_domain": domain, "pddl_problem": problem, "grammar": grammar})


class TextWorldEngine:
    """One TextWorld environment, re-used for all games: each new one loads a 34 MB library of its own."""

    def __init__(self) -> None:
        infos = textworld.EnvInfos(admissible_commands=True, won=True)
        self._environment = AlfredDemangler(PddlEnv(infos), shuffle=False)
        self._loaded: TextWorldGame | None = None
        self._state: Any = None

    def reset(self, game: TextWorldGame) -> str:
        if game is not self._loaded:
            self._environment.load(game.content)
            self._loaded = game
        self._state = self._environment.reset()
        return self._state.feedback

    def step(self, command: str) -> str:
        self._state, _, _ = self._environment.step(command)
        return self._state.feedback

    @property
    def admissible_commands(self) -> tuple[str, ...]:
        return tuple(self._state["admissible_commands"])

    @property
    def won(self) -> bool:
        return bool(self._state["won"])

    @property
    def score(self) -> float:
        return float(self.won)

    @property
    def goal_progress(self) -> float:
        """TextWorld knows only whether the goal is met: 1.0 or 0.0."""
        return float(self.won)

    @property
    def state_hash(self) -> int:
        """63 bits, equal for equal sets of facts."""
        facts = "\n".join(sorted(str(fact) for fact in self._state["_facts"]))
        return int.from_bytes(hashlib.sha256(facts.encode()).digest()[:8], "big") >> 1
