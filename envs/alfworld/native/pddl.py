"""PDDL domains and problems as typed values, limited to what the engine plays exactly.

Names are lower-cased and comments dropped as Fast Downward does. A construct outside the subset is refused with its
name (`UnsupportedConstruct`); nothing is approximated.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

from trajectories.errors import UserError

ROOT_TYPE = "object"
REQUIREMENTS = {":adl", ":strips", ":typing", ":action-costs", ":equality", ":negative-preconditions"}

Node = str | list["Node"]


class UnsupportedConstruct(UserError):
    """The game uses PDDL or grammar that the native engine does not play exactly; the message names it."""


@dataclass(frozen=True, slots=True)
class Literal:
    """`predicate(*arguments)` or its negation. Arguments that start with `?` are variables, others objects."""

    positive: bool
    predicate: str
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Clause:
    """A conjunction of literals; `variables` maps every variable, existential ones included, to its type."""

    variables: Mapping[str, str]
    literals: tuple[Literal, ...]


@dataclass(frozen=True, slots=True)
class Effect:
    """`literal` becomes true when `condition` (a conjunction, mostly empty) held before the action."""

    condition: tuple[Literal, ...]
    literal: Literal


@dataclass(frozen=True, slots=True)
class ActionSchema:
    """An action: it is applicable when one of `preconditions` holds."""

    name: str
    parameters: tuple[tuple[str, str], ...]
    preconditions: tuple[Clause, ...]
    effects: tuple[Effect, ...]


@dataclass(frozen=True, slots=True)
class Domain:
    """Types as name → parents in order of declaration, and the actions in order of declaration."""

    name: str
    types: Mapping[str, tuple[str, ...]]
    predicates: frozenset[str]
    actions: tuple[ActionSchema, ...]

    def subtypes(self, name: str) -> frozenset[str]:
        """`name` and every type below it; nothing for an undeclared type.

        ALFWorld's own domain writes `exists (?l - location, ?r - receptacle)`, which declares `?l` of the type
        `location,`. Fast Downward takes that at its word: no object has the type, the condition never holds.
        """
        if name not in self.types:
            return frozenset()
        below = frozenset(child for child, parents in self.types.items() if name in parents)
        return frozenset({name}).union(*(self.subtypes(child) for child in below))

    @property
    def fluents(self) -> frozenset[str]:
        """Predicates that some action changes; all others keep their initial facts for ever."""
        return frozenset(effect.literal.predicate for action in self.actions for effect in action.effects)


@dataclass(frozen=True, slots=True)
class Problem:
    """Objects as name → type, initial facts as predicate → argument tuples, and the goal.

    The goal is a conjunction; each of its parts is a disjunction of clauses and shares no variable with the others.
    """

    objects: Mapping[str, str]
    facts: Mapping[str, frozenset[tuple[str, ...]]]
    goal: tuple[tuple[Clause, ...], ...]


@lru_cache(maxsize=8)
def parse_domain(text: str) -> Domain:
    """Read a PDDL domain. Raises UnsupportedConstruct."""
    head, *sections = _define(text, "domain")
    types: dict[str, tuple[str, ...]] = {ROOT_TYPE: ()}
    predicates: frozenset[str] = frozenset()
    actions: list[ActionSchema] = []
    for section in sections:
        kind = section[0]
        if kind == ":requirements":
            for name in section[1:]:
                if name not in REQUIREMENTS:
                    raise UnsupportedConstruct(f"PDDL: requirement `{name}`")
        elif kind == ":types":
            types |= {name: (parent,) for name, parent in _typed(section[1:]) if name != ROOT_TYPE}
        elif kind == ":predicates":
            predicates = frozenset(str(declaration[0]) for declaration in section[1:])
        elif kind == ":action":
            actions.append(_action(section[1:]))
        elif kind != ":functions":  # functions only count costs, which no player sees
            raise UnsupportedConstruct(f"PDDL: domain section `{kind}`")
    for name in predicates:
        if name.startswith("not_"):
            raise UnsupportedConstruct(f"PDDL: predicate `{name}`, a name that TextWorld keeps for negated facts")
    return Domain(head, types, predicates, tuple(actions))


def parse_problem(text: str) -> Problem:
    """Read a PDDL problem. Raises UnsupportedConstruct."""
    _, *sections = _define(text, "problem")
    objects: dict[str, str] = {}
    facts: dict[str, set[tuple[str, ...]]] = {}
    goal: tuple[tuple[Clause, ...], ...] = ()
    for section in sections:
        kind = section[0]
        if kind == ":objects":
            for name, type_name in _typed(section[1:]):
                if name in objects:
                    raise UnsupportedConstruct(f"PDDL: object `{name}` declared twice")
                objects[name] = type_name
        elif kind == ":init":
            for fact in section[1:]:
                if fact[0] != "=":
                    facts.setdefault(fact[0], set()).add(tuple(fact[1:]))
                elif not str(fact[-1]).isdigit():  # distances and costs are whole numbers and never shown
                    raise UnsupportedConstruct(f"PDDL: initial value `{_show(fact)}`")
        elif kind == ":goal":
            goal = _goal_parts(section[1])
        elif kind not in (":domain", ":metric"):
            raise UnsupportedConstruct(f"PDDL: problem section `{kind}`")
    if "not" in facts:
        raise UnsupportedConstruct("PDDL: negated initial fact")
    return Problem(objects, {predicate: frozenset(rows) for predicate, rows in facts.items()}, goal)


def _define(text: str, kind: str) -> list:
    """The sections of `(define (kind name) section…)`, with the name in front."""
    text = re.sub(r";[^\n]*", "", text).lower()
    stack: list[list] = [[]]
    for token in re.findall(r"[()]|[^\s()]+", text):
        if token == "(":
            stack.append([])
        elif token == ")":
            if len(stack) == 1:
                raise UserError(f"PDDL {kind}: one closing parenthesis too many")
            closed = stack.pop()
            stack[-1].append(closed)
        else:
            stack[-1].append(token)
    match stack:
        case [[["define", [found, name], *sections]]] if found == kind:
            return [name, *sections]
    raise UserError(f"PDDL {kind}: expected `(define ({kind} NAME) ...)` with balanced parentheses")


def _typed(tokens: list) -> Iterator[tuple[str, str]]:
    """Name and type of each element of a typed list (`a b - t c`); untyped names get the root type."""
    pending: list[str] = []
    stream = iter(tokens)
    for token in stream:
        if token == "-":
            type_name = next(stream, None)
            if not isinstance(type_name, str):
                raise UnsupportedConstruct(f"PDDL: type `{_show(type_name)}`")
            yield from ((name, type_name) for name in pending)
            pending = []
        elif isinstance(token, str):
            pending.append(token)
        else:
            raise UnsupportedConstruct(f"PDDL: `{_show(token)}` in a typed list")
    yield from ((name, ROOT_TYPE) for name in pending)


def _action(section: list) -> ActionSchema:
    name = section[0]
    fields = dict(zip(section[1::2], section[2::2], strict=True))
    for key in fields:
        if key not in (":parameters", ":precondition", ":effect"):
            raise UnsupportedConstruct(f"PDDL: `{key}` in action `{name}`")
    parameters = tuple(_typed(fields.get(":parameters", [])))
    clauses = _clauses(fields.get(":precondition") or ["and"], dict(parameters))
    return ActionSchema(name, parameters, tuple(clauses), tuple(_effects(fields.get(":effect", []), (), name)))


def _effects(node: list, condition: tuple[Literal, ...], action: str) -> Iterator[Effect]:
    match node:
        case ["and", *parts]:
            for part in parts:
                yield from _effects(part, condition, action)
        case ["when", antecedent, consequent] if not condition:
            clauses = _clauses(antecedent, {})
            if len(clauses) != 1 or clauses[0].variables:
                raise UnsupportedConstruct(f"PDDL: `{_show(antecedent)}` as condition of an effect of `{action}`")
            yield from _effects(consequent, clauses[0].literals, action)
        case ["increase", ["total-cost"], _]:
            pass
        case [("when" | "forall" | "increase" | "decrease" | "assign" | "scale-up" | "scale-down"), *_]:
            raise UnsupportedConstruct(f"PDDL: effect `{_show(node)}` of action `{action}`")
        case _:
            yield Effect(condition, _literal(node))


def _goal_parts(node: list) -> tuple[tuple[Clause, ...], ...]:
    if node[0] == "and":
        return tuple(part for child in node[1:] for part in _goal_parts(child))
    return (tuple(_clauses(node, {})),)


def _clauses(node: list, variables: Mapping[str, str]) -> list[Clause]:
    """Disjunctive normal form of a condition; `variables` are those bound outside."""
    match node:
        case ["and", *parts]:
            return [_conjunction(choice, variables) for choice in product(*(_clauses(p, variables) for p in parts))]
        case ["or", *parts]:
            return [clause for part in parts for clause in _clauses(part, variables)]
        case ["exists", parameters, body]:
            inner = dict(_typed(parameters))
            if shadowed := inner.keys() & variables.keys():
                raise UnsupportedConstruct(f"PDDL: `exists` re-uses the variable `{min(shadowed)}`")
            return _clauses(body, {**variables, **inner})
        case ["not", [("and" | "or" | "not" | "exists" | "forall" | "imply"), *_]] | [("forall" | "imply"), *_]:
            raise UnsupportedConstruct(f"PDDL: condition `{_show(node)}`")
        case _:
            return [Clause(dict(variables), (_literal(node),))]


def _conjunction(clauses: tuple[Clause, ...], outer: Mapping[str, str]) -> Clause:
    variables = dict(outer)
    for clause in clauses:
        inner = {name: kind for name, kind in clause.variables.items() if name not in outer}
        if shared := inner.keys() & variables.keys():
            raise UnsupportedConstruct(f"PDDL: two `exists` of one condition use the variable `{min(shared)}`")
        variables |= inner
    return Clause(variables, tuple(dict.fromkeys(literal for clause in clauses for literal in clause.literals)))


def _literal(node: list) -> Literal:
    positive = node[0] != "not"
    atom = node if positive else node[1]
    if not all(isinstance(part, str) for part in atom):
        raise UnsupportedConstruct(f"PDDL: condition `{_show(node)}`")
    return Literal(positive, atom[0], tuple(atom[1:]))


def _show(node: object) -> str:
    text = "(" + " ".join(map(_show, node)) + ")" if isinstance(node, list) else str(node)
    return text if len(text) <= 80 else text[:77] + "..."
