"""ALFWorld games played natively: text in, text out, exactly as stock TextWorld answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from envs.alfworld.native.facts import NEGATED, FactSpace
from envs.alfworld.native.grammar import Symbol, parse_grammar
from envs.alfworld.native.names import player_names
from envs.alfworld.native.operators import Goal, Operator, Operators, tracked_predicates
from envs.alfworld.native.pddl import UnsupportedConstruct, parse_domain, parse_problem
from envs.alfworld.native.tables import Row, Statics
from envs.alfworld.native.text import Narrator, Sentence

NOTHING_HAPPENS = "Nothing happens."
Snapshot = tuple[str, ...]
"""A state as sorted facts, `predicate argument …` each: hashable, and the same in every process."""


@dataclass(frozen=True, slots=True, eq=False)
class NativeGame:
    """A game ready to play. Any number of engines may share it.

    Attributes:
        names: what players call each entity, by id.
        facts, operators: the state space; they grow while the game is played, but never change an answer.
    """

    names: Mapping[str, str]
    facts: FactSpace
    operators: Operators
    goal: Goal
    initial: int
    intro: Sentence
    feedback: Mapping[str, Sentence]

    @classmethod
    def compile(cls, domain: str, problem: str, grammar: str) -> NativeGame:
        """Read the three texts of a `game.tw-pddl` file. Raises UnsupportedConstruct with the construct's name."""
        parsed, task, texts = parse_domain(domain), parse_problem(problem), parse_grammar(grammar)
        statics = Statics(parsed, task)
        facts = FactSpace(tracked_predicates(parsed, task, texts.spoken()), task.objects)
        names = player_names({name for rows in task.facts.values() for row in rows for name in row})
        narrator = Narrator(texts, parsed, statics, facts, names)
        commands: dict[str, Sentence] = {}
        feedback: dict[str, Sentence] = {}
        for action in parsed.actions:
            if action.name not in texts.actions:
                raise UnsupportedConstruct(f"grammar: action `{action.name}` has no text")
            scope = tuple((name.lstrip("?"), kind) for name, kind in action.parameters)
            text = texts.actions[action.name]
            for name in texts.predicates(text.command):
                if name.removeprefix(NEGATED) in parsed.fluents:
                    raise UnsupportedConstruct(f"grammar: the command of `{action.name}` reads `{name}`, which changes")
            commands[action.name] = narrator.compile(text.command, scope)
            feedback[action.name] = narrator.compile(text.feedback, scope)

        def command(name: str, arguments: Row) -> str:
            return commands[name](0, arguments)

        initial = facts.bits((name, row) for name in sorted(task.facts) for row in sorted(task.facts[name]))
        operators = Operators(parsed, task, statics, facts, command)
        operators.discover(initial)
        intro = narrator.compile((Symbol("intro"),), ())
        return cls(names, facts, operators, Goal(task, statics, facts), initial, intro, feedback)

    def menu(self, state: int) -> dict[str, Operator]:
        """The operator that each admissible command stands for, in no particular order."""
        menu: dict[str, Operator] = {}
        for operator in self.operators.applicable(state):
            other = menu.setdefault(operator.command, operator)
            if other is not operator and not self._alike(operator, other, state):
                raise UnsupportedConstruct(f"two different actions are called `{operator.command}`")
        return menu

    def answer(self, operator: Operator, state: int) -> str:
        """What the game says once `operator` has led to `state`."""
        return self.feedback[operator.schema.name](state, operator.arguments)

    def _alike(self, operator: Operator, other: Operator, state: int) -> bool:
        """Whether it makes no difference which of the two is done."""
        if operator.schema is other.schema and operator.arguments == other.arguments:
            return True
        after = operator.apply(state)
        return after == other.apply(state) and self.answer(operator, after) == self.answer(other, after)


class NativeEngine:
    """Plays one game at a time; `reset` first."""

    def __init__(self) -> None:
        self._game: NativeGame | None = None
        self._state = 0
        self._hash = 0

    def reset(self, game: NativeGame) -> str:
        """Start `game`; returns the welcome text."""
        self._game, self._state, self._hash = game, 0, 0
        self._enter(game.initial)
        return game.intro(self._state, ())

    def step(self, command: str) -> str:
        """Do what `command` says and return the answer; anything inadmissible leaves the state as it is."""
        operator = self._menu.get(command.strip())
        if operator is None:
            return NOTHING_HAPPENS
        state = operator.apply(self._state)
        if state != self._state:
            self._enter(state)
        return self.game.answer(operator, state)

    def _enter(self, state: int) -> None:
        game = self.game
        game.operators.discover(state & ~self._state)
        self._hash ^= game.facts.fingerprint(state ^ self._state)
        self._state = state
        self._menu = game.menu(state)
        self._admissible: tuple[str, ...] | None = None
        self.won = game.goal.reached(state)

    @property
    def game(self) -> NativeGame:
        if self._game is None:
            raise RuntimeError("no game: call reset(game) first")
        return self._game

    @property
    def admissible_commands(self) -> tuple[str, ...]:
        """Commands that do something now, sorted as stock sorts them."""
        if self._admissible is None:
            self._admissible = tuple(sorted(self._menu))
        return self._admissible

    @property
    def score(self) -> float:
        return 1.0 if self.won else 0.0

    @property
    def goal_progress(self) -> float:
        """Share of the goal's conditions that are met, in [0, 1]; 1 exactly when the game is won."""
        return self.game.goal.progress(self._state)

    @property
    def state(self) -> Snapshot:
        """The present state, for `restore` and as a key."""
        return self.game.facts.spell(self._state)

    @property
    def facts(self) -> int:
        """The present state, a bit for each of the game's facts."""
        return self._state

    @property
    def state_hash(self) -> int:
        """63-bit hash of the state; equal for equal states, in every process."""
        return self._hash

    def restore(self, snapshot: Snapshot) -> None:
        """Go to a state of the present game. Raises KeyError on a fact that the game does not know."""
        self._enter(self.game.facts.state(snapshot))
