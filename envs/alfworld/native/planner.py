"""Shortest plans by A* on the native state, without an external planner.

The search is kept small in two ways. *Relevance*: at first only operators are used that can be the first to make true
a fact that the goal, or another such operator, needs; without success all operators are. *Landmarks*: the heuristic
counts the facts that are false now and that every way to the goal must make true. It never overestimates, because it
is divided by the number of such facts that one operator can make true at once.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from itertools import count, product

from envs.alfworld.native.engine import NativeGame
from envs.alfworld.native.facts import indexes
from envs.alfworld.native.operators import Operator

IMPOSSIBLE = -1
"""All bits: the landmarks of what cannot be reached."""


UNSEEN = 1 << 30
KNOWN_DISTANCES = 1 << 16
"""States whose distance a process remembers: members of a group meet the same ones."""


class Unsolvable(Exception):
    """No sequence of commands wins the game."""


class PlannerTimeout(Exception):
    """The time limit passed before a plan was found or excluded."""


def shortest_plan(game: NativeGame, time_limit_s: float) -> list[str]:
    """The fewest commands that win `game` from its start.

    Raises:
        Unsolvable: there are none.
        PlannerTimeout: `time_limit_s` seconds were not enough.
    """
    deadline = time.monotonic() + time_limit_s
    operators = _reachable_operators(game, deadline)
    goals = _goal_choices(game, operators)
    for candidates in (_relevant(game.initial, goals, operators), operators):
        plan = _search(game, candidates, goals, deadline)
        if plan is not None:
            return plan
    raise Unsolvable("no sequence of commands wins this game")


@lru_cache(maxsize=KNOWN_DISTANCES)
def distance_to_goal(game: NativeGame, facts: int, time_limit_s: float) -> int | None:
    """Commands of a shortest plan from the state with these facts; None where the time limit ends the search, or where
    no plan exists."""
    try:
        return len(shortest_plan(replace(game, initial=facts), time_limit_s))
    except (Unsolvable, PlannerTimeout):
        return None


def _reachable_operators(game: NativeGame, deadline: float) -> list[Operator]:
    """Every operator that changes a tracked fact and is possible if facts, once true, stayed true."""
    facts = game.initial
    while True:
        _check(deadline)
        game.operators.discover(facts)
        found = [
            op
            for op in game.operators.known()
            if op.condition.needs & ~facts == 0 and _additions(op) | op.change.delete
        ]
        reached = facts
        for operator in found:
            reached |= _additions(operator)
        if reached == facts:
            return found
        facts = reached


def _goal_choices(game: NativeGame, operators: list[Operator]) -> list[int]:
    """The sets of facts that win, one condition from each part of the goal, without the unreachable ones."""
    facts = game.initial
    for operator in operators:
        facts |= _additions(operator)
    parts = [[c.needs for c in part if not c.needs & ~facts] for part in game.goal.parts]
    return sorted({_union(choice) for choice in product(*parts)})


def _relevant(initial: int, goals: list[int], operators: list[Operator]) -> list[Operator]:
    """Operators that can be the first to achieve something needed, from the goal backwards.

    A needed fact that holds at the start wants no achiever unless it is part of the goal. The source of a move (a
    fact that an operator needs and deletes) is no end in itself when the same move also starts from the initial state.
    """
    landmarks = _Landmarks(operators)
    relevant: dict[int, Operator] = {}
    pending = list(indexes(_union(goals)))
    seen: set[int] = set()
    while pending:
        index = pending.pop()
        if index in seen:
            continue
        seen.add(index)
        fact = 1 << index
        achievers = landmarks.achievers.get(fact, [])
        direct = {op.schema.name for op in achievers if not op.condition.needs & op.change.delete & ~initial}
        for operator in achievers:
            needs = operator.condition.needs
            if any(landmarks.of(1 << i, initial) & fact for i in indexes(needs & ~initial)):
                continue
            relevant[id(operator)] = operator
            wanted = needs & ~initial
            if operator.schema.name in direct:
                wanted &= ~operator.change.delete
            pending.extend(indexes(wanted))
    return list(relevant.values())


class _Landmarks:
    """Facts that every way to a fact must make true, ignoring that facts can become false."""

    def __init__(self, operators: Iterable[Operator]) -> None:
        self.achievers: dict[int, list[Operator]] = {}
        for operator in operators:
            for index in indexes(_additions(operator) & ~operator.condition.needs):
                self.achievers.setdefault(1 << index, []).append(operator)
        self._needs = {fact: list({op.condition.needs for op in ops}) for fact, ops in self.achievers.items()}
        self._state = 0
        self._next: dict[int, bool] = {}
        self._known: dict[int, int] = {}

    def of(self, fact: int, state: int) -> int:
        """The landmarks of a fact in `state`, itself included: none when it holds, IMPOSSIBLE when out of reach."""
        if state != self._state:
            self._state, self._next, self._known = state, {}, {}
        return self._without(fact, 0)[0]

    def _without(self, fact: int, above: int) -> tuple[int, int]:
        """The landmarks of a fact on the ways that do not rest on the facts in `above`, and those of `above` that
        stood in a way. Where none did, the result holds for any `above` and is remembered."""
        state = self._state
        if fact & state:
            return 0, 0
        if self._is_next(fact):
            return fact, 0
        if fact in self._known:
            return self._known[fact], 0
        common, blocking = IMPOSSIBLE, 0
        for needs in self._needs.get(fact, ()):
            missing = needs & ~state
            if missing & (above | fact):
                blocking |= missing & above
                continue
            landmarks, others = self._without_any(missing, above | fact)
            common &= landmarks
            blocking |= others
            if not common:
                break
        result = common if common == IMPOSSIBLE else common | fact
        blocking &= ~fact
        if not blocking:
            self._known[fact] = result
        return result, blocking

    def _without_any(self, facts: int, above: int) -> tuple[int, int]:
        total = blocking = 0
        for index in indexes(facts):
            landmarks, others = self._without(1 << index, above)
            total |= landmarks
            blocking |= others
            if total == IMPOSSIBLE:
                break
        return total, blocking

    def _is_next(self, fact: int) -> bool:
        """Whether one operator achieves the fact now."""
        found = self._next.get(fact)
        if found is None:
            absent = ~self._state
            found = self._next[fact] = any(not needs & absent for needs in self._needs.get(fact, ()))
        return found


def _search(game: NativeGame, candidates: list[Operator], goals: list[int], deadline: float) -> list[str] | None:
    """A* over the facts that the candidates or the goal read; None when these operators do not reach the goal."""
    allowed = {id(operator) for operator in candidates}
    read = _union(_facts_read(operator) for operator in candidates)
    read |= _union(condition.needs | condition.forbids for part in game.goal.parts for condition in part)
    landmarks = _Landmarks(candidates)
    gain = max((_additions(op) & read & ~op.condition.needs).bit_count() for op in candidates) if candidates else 1

    def distance(state: int) -> int:
        """A lower bound of the commands still needed; negative when the goal is out of reach."""
        best = IMPOSSIBLE
        for goal in goals:
            total = 0
            for index in indexes(goal & ~state):
                total |= landmarks.of(1 << index, state)
            if total != IMPOSSIBLE and (best < 0 or total.bit_count() < best):
                best = total.bit_count()
        return -(-best // max(1, gain)) if best >= 0 else IMPOSSIBLE

    start = game.initial
    ticket = count()
    first = distance(start)
    queue = [(first, 0, next(ticket), start)] if first >= 0 else []
    depth = {start & read: 0}
    parent: dict[int, tuple[int, str]] = {}
    while queue:
        _check(deadline)
        _, negative_depth, _, state = heapq.heappop(queue)
        reached = -negative_depth
        if depth[state & read] < reached:
            continue
        if game.goal.reached(state):
            return _path(parent, state & read, reached)
        for operator in game.operators.applicable(state):
            if id(operator) not in allowed:
                continue
            successor = operator.apply(state)
            key = successor & read
            if reached + 1 < depth.get(key, UNSEEN):
                bound = distance(successor)
                if bound >= 0:
                    depth[key] = reached + 1
                    parent[key] = (state & read, operator.command)
                    heapq.heappush(queue, (reached + 1 + bound, -reached - 1, next(ticket), successor))
    return None


def _path(parent: dict[int, tuple[int, str]], key: int, length: int) -> list[str]:
    commands = []
    for _ in range(length):
        key, command = parent[key]
        commands.append(command)
    return commands[::-1]


def _additions(operator: Operator) -> int:
    """Facts that the operator can make true."""
    return operator.change.add | _union(change.add for _, change in operator.conditional)


def _facts_read(operator: Operator) -> int:
    own = operator.condition.needs | operator.condition.forbids
    return own | _union(condition.needs | condition.forbids for condition, _ in operator.conditional)


def _union(sets: Iterable[int]) -> int:
    total = 0
    for bits in sets:
        total |= bits
    return total


def _check(deadline: float) -> None:
    if time.monotonic() > deadline:
        raise PlannerTimeout("no plan within the time limit; raise it, or treat the game as unsolved")
