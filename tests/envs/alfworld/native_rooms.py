"""Small rooms for tests of the native engine, with the domain and grammar of the embedded games."""

from __future__ import annotations

from functools import cache

from envs.alfworld.games import Game
from envs.alfworld.library import GameLibrary
from envs.alfworld.native.engine import NativeEngine, NativeGame

PUT = """(exists (?r - receptacle ?o - object)
    (and (objectType ?o MugType) (receptacleType ?r DeskType) (inReceptacle ?o ?r)))"""
TWO = """(exists (?r - receptacle) (exists (?o1 - object)
    (and (objectType ?o1 MugType) (receptacleType ?r DeskType) (inReceptacle ?o1 ?r)
        (exists (?o2 - object) (and (not (= ?o1 ?o2)) (objectType ?o2 MugType) (inReceptacle ?o2 ?r))))))"""
LIGHT = """(and (exists (?ot - object ?r - receptacle ?a - agent ?l - location)
        (and (objectType ?ot DeskLampType) (toggleable ?ot) (isToggled ?ot) (receptacleAtLocation ?r ?l)
            (atLocation ?a ?l) (inReceptacle ?ot ?r)))
    (exists (?o - object ?a - agent) (and (objectType ?o MugType) (holds ?a ?o))))"""
HOT = """(exists (?r - receptacle ?o - object)
    (and (heatable ?o) (isHot ?o) (objectType ?o MugType) (receptacleType ?r DeskType) (inReceptacle ?o ?r)))"""
NEVER = """(exists (?r - receptacle ?o - object)
    (and (objectType ?o MugType) (receptacleType ?r MicrowaveType) (isClean ?o)))"""
GOALS = {"put": PUT, "two": TWO, "light": LIGHT, "hot": HOT}


def room(goal: str) -> str:
    """A room with a desk, a closed drawer with a mug and a knife, a microwave with another mug, and a lamp."""
    return f"""(define (problem room) (:domain alfred)
    (:objects agent1 - agent mug_bar_1 mug_bar_2 knife_bar_1 desklamp_bar_1 - object
        desk_bar_1 drawer_bar_1 microwave_bar_1 - receptacle loc_bar_0 loc_bar_1 loc_bar_2 - location
        DeskType DrawerType MicrowaveType - rtype MugType KnifeType DeskLampType - otype)
    (:init (= (total-cost) 0) (atLocation agent1 loc_bar_0)
        (receptacleType desk_bar_1 DeskType) (receptacleType drawer_bar_1 DrawerType)
        (receptacleType microwave_bar_1 MicrowaveType)
        (receptacleAtLocation desk_bar_1 loc_bar_1) (receptacleAtLocation microwave_bar_1 loc_bar_1)
        (receptacleAtLocation drawer_bar_1 loc_bar_2) (openable drawer_bar_1) (openable microwave_bar_1)
        (objectType mug_bar_1 MugType) (objectType mug_bar_2 MugType) (objectType knife_bar_1 KnifeType)
        (objectType desklamp_bar_1 DeskLampType) (toggleable desklamp_bar_1) (sliceable mug_bar_2)
        (pickupable mug_bar_1) (pickupable mug_bar_2) (pickupable knife_bar_1)
        (heatable mug_bar_1) (heatable mug_bar_2)
        (canContain DeskType MugType) (canContain DrawerType MugType) (canContain MicrowaveType MugType)
        (canContain DeskType KnifeType)
        (inReceptacle mug_bar_1 drawer_bar_1) (objectAtLocation mug_bar_1 loc_bar_2)
        (inReceptacle knife_bar_1 drawer_bar_1) (objectAtLocation knife_bar_1 loc_bar_2)
        (inReceptacle mug_bar_2 microwave_bar_1) (objectAtLocation mug_bar_2 loc_bar_1)
        (inReceptacle desklamp_bar_1 desk_bar_1) (objectAtLocation desklamp_bar_1 loc_bar_1))
    (:goal {goal}))"""


@cache
def generated(count: int = 12) -> tuple[Game, ...]:
    """Embedded games, spread over the pack."""
    library = GameLibrary.open()
    task_ids = library.task_ids("generated/train")
    return tuple(library.read(task_ids[number * len(task_ids) // count]) for number in range(count))


def compiled(problem: str) -> NativeGame:
    game = generated()[0]
    return NativeGame.compile(game.domain, problem, game.grammar)


@cache
def compiled_game(number: int) -> NativeGame:
    game = generated()[number]
    return NativeGame.compile(game.domain, game.problem, game.grammar)


def started(game: NativeGame) -> NativeEngine:
    engine = NativeEngine()
    engine.reset(game)
    return engine
