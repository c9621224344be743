"""Reading the texts of a game: names, and refusal of what the native engine does not play exactly."""

from __future__ import annotations

import re

import pytest

from envs.alfworld.native.engine import NativeGame
from envs.alfworld.native.names import player_names
from envs.alfworld.native.pddl import UnsupportedConstruct, parse_domain
from tests.envs.alfworld.native_rooms import GOALS, compiled, generated, room, started
from trajectories.errors import UserError


def test_names_count_downwards_per_kind() -> None:
    names = player_names(["mug_bar_1", "mug_bar_2", "sink_bar_1", "sink_bar_1_bar_sinkbasin", "agent1"])
    assert names == {
        "mug_bar_1": "mug 2",
        "mug_bar_2": "mug 1",
        "sink_bar_1": "sink 1",
        "sink_bar_1_bar_sinkbasin": "sinkbasin 1",
        "agent1": "agent1 ",
    }


def replaced(where: str, old: str, new: str) -> dict[str, str]:
    texts = {"domain": generated()[0].domain, "problem": room(GOALS["put"]), "grammar": generated()[0].grammar}
    assert old in texts[where]
    return {**texts, where: texts[where].replace(old, new, 1)}


REFUSED = {
    "requirement `:durative-actions`": ("domain", ":typing", ":typing :durative-actions"),
    "domain section `:derived`": ("domain", "(:action look", "(:derived (checked ?l) (examined ?l)) (:action look"),
    "condition `(forall": ("domain", "(not (opened ?r))", "(forall (?x - object) (opened ?r))"),
    "condition `(imply": ("domain", "(not (opened ?r))", "(imply (opened ?r) (openable ?r))"),
    "effect `(forall": ("domain", "(isToggled ?o)\n            )", "(forall (?x - object) (isToggled ?x)))"),
    "predicate `not_opened`": ("domain", "(opened ?r - receptacle)", "(opened ?r) (not_opened ?r - receptacle)"),
    "initial value": ("problem", "(= (total-cost) 0)", "(= (total-cost) 0.5)"),
    "a goal that no action can change": ("problem", "(inReceptacle ?o ?r)", "(heatable ?o)"),
    "problem section `:constraints`": ("problem", "(:goal", "(:constraints x) (:goal"),
    "declared twice": ("problem", "mug_bar_1 mug_bar_2", "mug_bar_1 mug_bar_1 mug_bar_2"),
    "reads `opened`, which `toggleobject` changes conditionally": ("domain", "(isOn ?o))", "(opened ?r))"),
    "action `look` has no text": ("grammar", "action look {", "action peek {"),
    "expression `len(o.name)`": ("grammar", "{o.indefinite + ' ' + o.name |", "{len(o.name) |"),
    "expression `o.synonyms`": ("grammar", "{o.indefinite + ' ' + o.name |", "{o.synonyms |"),
    "the command of `openobject` reads `opened`": ("grammar", '"open {r}"', '"open [{r.name|opened(r:receptacle)}]"'),
    "symbol `#elsewhere#` has no rule": ("grammar", "#look.feedback#\\n", "#elsewhere#\\n"),
    "symbol `#task#` contains itself": ("grammar", "Your task is to", "#task# Your task is to"),
    "variable without type": ("grammar", "holds(a:agent, o:object)", "holds(a, o:object)"),
    "`o` is of two types": ("grammar", "inreceptacle(o:object, r:receptacle)}", "in(o:object) & at(o:agent)}"),
    "type `robot` is not declared": ("grammar", "holds(a:agent, o:object)", "holds(a:agent, o:robot)"),
    "`weights` in a rule": ("grammar", '"rhs": "TODO"', '"rhs": "TODO", "weights": 3'),
}


@pytest.mark.parametrize("message", REFUSED)
def test_unknown_constructs_are_refused_by_name(message: str) -> None:
    with pytest.raises(UnsupportedConstruct, match=re.escape(message)):
        NativeGame.compile(**replaced(*REFUSED[message]))


def test_parts_of_the_goal_that_always_hold_do_not_count() -> None:
    goal = "(and (exists (?o - object) (heatable ?o)) (exists (?o - object ?a - agent) (holds ?a ?o)))"
    engine = started(compiled(room(goal)))
    assert engine.goal_progress == 0.0 and not engine.won
    for command in ("go to drawer 1", "open drawer 1", "take knife 1 from drawer 1"):
        engine.step(command)
    assert engine.goal_progress == 1.0 and engine.won


def test_two_different_actions_with_the_same_words_are_refused() -> None:
    game = NativeGame.compile(**replaced("grammar", '"go to [{r.name | ', '"go [{a.id | '))
    with pytest.raises(UnsupportedConstruct, match="two different actions are called `go agent1`"):
        started(game)


def test_the_unchanged_texts_are_accepted() -> None:
    NativeGame.compile(**replaced("domain", ":typing", ":typing"))


@pytest.mark.parametrize("text", ["(define (domain x)", "(define (domain x)))", "(define (problem x))", ""])
def test_broken_pddl_is_a_data_error(text: str) -> None:
    with pytest.raises(UserError, match="PDDL domain"):
        parse_domain(text)
