"""The native engine answers as stock TextWorld does: official and generated games, and its parser of templates."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from envs.alfworld.games import OFFICIAL_SPLITS
from envs.alfworld.library import GameLibrary
from envs.alfworld.native.grammar import Each, Expression, Symbol, parse_template
from envs.alfworld.native.pddl import UnsupportedConstruct
from tests.data import ALFWORLD_MINI, require

pytestmark = pytest.mark.skipif(
    find_spec("textworld") is None or find_spec("alfworld") is None,
    reason="needs stock TextWorld: pip install 'concerto[reference]'",
)
RANDOM_STEPS = 12
MINI_GAMES = 36
GENERATED_GAMES = 6


@pytest.fixture(scope="module")
def remembered() -> Iterator[None]:
    from benchmarks.alfworld_differential import pure_functions_remembered

    with pure_functions_remembered():
        yield


@pytest.fixture(scope="module")
def official() -> GameLibrary:
    return GameLibrary.open(require(ALFWORLD_MINI))


@pytest.mark.parametrize("number", range(MINI_GAMES))
def test_official_game_has_no_difference(number: int, official: GameLibrary, remembered: None) -> None:
    from benchmarks.alfworld_differential import differences, stock_engine

    task_ids = [task_id for split in OFFICIAL_SPLITS for task_id in official.task_ids(split)]
    assert len(task_ids) == MINI_GAMES
    assert list(differences(official.read(task_ids[number]), stock_engine(), RANDOM_STEPS, seed=1)) == []


@pytest.mark.parametrize("number", range(GENERATED_GAMES))
def test_generated_game_has_no_difference(number: int, remembered: None) -> None:
    from benchmarks.alfworld_differential import differences, stock_engine

    library = GameLibrary.open()
    task_ids = library.task_ids("generated/heldout")
    game = library.read(task_ids[number * len(task_ids) // GENERATED_GAMES])
    assert list(differences(game, stock_engine(), RANDOM_STEPS, seed=2)) == []


def as_stock(text: str) -> list[tuple[str, ...]]:
    """Stock's parts of a template, in a form that `as_native` shares."""
    textgen: Any = import_module("textworld.envs.pddl.textgen")  # its own annotations are wrong where it is installed

    parts = []
    for part in textgen._parse_and_convert(text, rule_name="symbols"):
        match part:
            case textgen.TerminalSymbol():
                parts.append(("text", part.symbol))
            case textgen.NonterminalSymbol():
                parts.append(("symbol", part.symbol))
            case textgen.ConditionalSymbol() | textgen.ListSymbol():
                listed = isinstance(part, textgen.ListSymbol)
                inner = part.symbol if listed else part
                kind = "symbol" if isinstance(inner.expression, textgen.NonterminalSymbol) else "expression"
                body = (kind, inner.expression.symbol.strip())
                parts.append(("list", *body) if listed else ("each", *body) if inner.given else body)
    return [part for part in parts if part != ("text", "")]


def as_native(text: str) -> list[tuple[str, ...]]:
    parts = []
    for part in parse_template(text):
        match part:
            case str():
                parts.append(("text", part))
            case Symbol(name):
                parts.append(("symbol", name))
            case Expression(source):
                parts.append(("expression", source.strip()))
            case Each(Symbol(name), _, listed):
                parts.append(("list" if listed else "each", "symbol", name))
            case Each(Expression(source), _, listed):
                parts.append(("list" if listed else "each", "expression", source.strip()))
    return parts


SPACE = [" ", "  ", "\n", "\n\n", "\t"]
TEXT = ["You see ", "a.", ", and ", "//x", '"quoted"', ";", "}", "<"]
SYMBOLS = ["#look#", "#over(o, r)#", "{o.name}", "{ r }", "[{o.name}]"]
QUERIES = ["{o.name | in(o:object)}", "[{#over(o)#|in(o:object, r:receptacle)}]"]
PIECES = st.sampled_from(SPACE + TEXT + SYMBOLS + QUERIES)


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=7).map("".join))
@example(" (it is open)")
@example("\nAvailable commands:\n  look: around\n")
@example("{o.indefinite} {o.name} (in/on the {r.name})}")
@example("//comment\n text")
def test_templates_are_split_as_stock_splits_them(text: str) -> None:
    try:
        found = as_native(text)
    except UnsupportedConstruct:
        return
    assert found == as_stock(text)
