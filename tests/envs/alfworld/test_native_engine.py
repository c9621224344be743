"""Play with the native engine: commands, states, snapshots, and agreement with the plain reading of PDDL."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.alfworld.native.engine import NOTHING_HAPPENS, NativeEngine, NativeGame
from envs.alfworld.native.facts import indexes
from envs.alfworld.native.operators import Change, Condition, Operator
from envs.alfworld.native.pddl import ActionSchema
from tests.envs.alfworld.native_reference import Reference
from tests.envs.alfworld.native_rooms import GOALS, compiled, compiled_game, generated, room, started

NUMBERS = st.integers(0, 11)
STEPS = st.lists(st.integers(0, 10**6), max_size=25)


def walk(engine: NativeEngine, choices: list[int]) -> list[str]:
    """Play admissible commands; returns the answers."""
    return [engine.step(engine.admissible_commands[i % len(engine.admissible_commands)]) for i in choices]


@settings(max_examples=40, deadline=None)
@given(NUMBERS, STEPS)
def test_admissible_commands_always_do_something(number: int, choices: list[int]) -> None:
    assert NOTHING_HAPPENS not in walk(started(compiled_game(number)), choices)


@settings(max_examples=40, deadline=None)
@given(NUMBERS, STEPS, st.sampled_from(["", "dance", "go to", "take mug 99 from bed 1", "LOOK"]))
def test_inadmissible_commands_change_nothing(number: int, choices: list[int], command: str) -> None:
    engine = started(compiled_game(number))
    walk(engine, choices)
    before = (engine.state, engine.admissible_commands, engine.won)
    assert engine.step(command) == NOTHING_HAPPENS
    assert (engine.state, engine.admissible_commands, engine.won) == before


@settings(max_examples=40, deadline=None)
@given(NUMBERS, STEPS)
def test_a_command_and_its_opposite_restore_the_state(number: int, choices: list[int]) -> None:
    engine = started(compiled_game(number))
    walk(engine, choices)
    start = engine.state
    for command in engine.admissible_commands:
        match command.split():
            case ["open", *thing]:
                opposite = " ".join(["close", *thing])
            case ["close", *thing]:
                opposite = " ".join(["open", *thing])
            case ["take", kind, index, "from", *place]:
                opposite = " ".join(["move", kind, index, "to", *place])
            case _:
                continue
        engine.step(command)
        assert engine.state != start
        if opposite in engine.admissible_commands:
            engine.step(opposite)
            assert engine.state == start
        engine.restore(start)


@settings(max_examples=40, deadline=None)
@given(NUMBERS, STEPS, STEPS)
def test_a_snapshot_survives_json_and_another_engine(number: int, before: list[int], after: list[int]) -> None:
    engine = started(compiled_game(number))
    walk(engine, before)
    saved = tuple(json.loads(json.dumps(engine.state)))
    game = generated()[number]
    other = started(NativeGame.compile(game.domain, game.problem, game.grammar))
    other.restore(saved)
    for name in ("state", "state_hash", "admissible_commands", "won", "goal_progress"):
        assert getattr(other, name) == getattr(engine, name)
    assert walk(other, after) == walk(engine, after)
    assert other.state_hash == engine.state_hash


def test_a_snapshot_of_another_game_is_refused() -> None:
    engine = started(compiled_game(0))
    with pytest.raises(KeyError, match="inreceptacle mug desk"):
        engine.restore(("inreceptacle mug desk",))


def test_hashes_differ_between_states_and_not_between_ways() -> None:
    engine = started(compiled(room(GOALS["put"])))
    start = engine.state_hash
    engine.step("look")
    assert engine.state_hash == start
    engine.step("go to drawer 1")
    elsewhere = engine.state_hash
    engine.step("go to desk 1")
    engine.step("go to drawer 1")
    assert engine.state_hash == elsewhere != start


def test_progress_grows_to_one_when_won() -> None:
    engine = started(compiled(room(GOALS["two"])))
    seen = [engine.goal_progress]
    script = (
        "go to desk 1|open microwave 1|take mug 1 from microwave 1|move mug 1 to desk 1|go to drawer 1|open drawer 1"
    )
    for command in f"{script}|take mug 2 from drawer 1|go to desk 1|move mug 2 to desk 1".split("|"):
        assert engine.step(command) != NOTHING_HAPPENS
        seen.append(engine.goal_progress)
    assert seen == sorted(seen) and set(seen) == {0.0, 0.5, 1.0}
    assert engine.won and engine.score == 1.0


def test_an_engine_that_played_before_starts_like_a_fresh_one() -> None:
    game, other = compiled(room(GOALS["put"])), compiled_game(0)
    for first in (game, other):
        fresh, used = started(game), started(first)
        walk(used, [3, 1, 4, 1, 5])
        assert used.reset(game) == NativeEngine().reset(game)
        for _ in range(4):
            for name in ("state", "state_hash", "facts", "admissible_commands", "won", "goal_progress"):
                assert getattr(used, name) == getattr(fresh, name), name
            assert walk(used, [1]) == walk(fresh, [1])


HOLD_OR_PUT = """(or (and (holds agent1 knife_bar_1) (opened microwave_bar_1) (inReceptacle mug_bar_2 desk_bar_1))
    (and (inReceptacle mug_bar_1 desk_bar_1) (not (opened drawer_bar_1))))"""


def test_progress_counts_what_must_not_hold_and_the_nearest_of_several_ways() -> None:
    engine = started(compiled(room(HOLD_OR_PUT)))
    assert engine.goal_progress == 1 / 2, "the drawer is closed"
    for command, progress in {
        "go to desk 1": 1 / 2,
        "open microwave 1": 1 / 2,
        "go to drawer 1": 1 / 2,
        "open drawer 1": 1 / 3,
        "take mug 2 from drawer 1": 1 / 3,
        "close drawer 1": 1 / 2,
        "go to desk 1 ": 1 / 2,
        "move mug 2 to desk 1": 1.0,
    }.items():
        assert engine.step(command) != NOTHING_HAPPENS
        assert (engine.goal_progress, engine.won) == (progress, progress == 1.0), command


BITS = st.integers(0, 2**6 - 1)
ONE_OR_NONE = st.sampled_from([0, *(1 << bit for bit in range(6))])
"""Few facts to ask for, so that conditions often hold."""
CHANGES = st.builds(Change, BITS, BITS)


@given(BITS, CHANGES, st.lists(st.tuples(st.builds(Condition, ONE_OR_NONE, ONE_OR_NONE), CHANGES), max_size=4))
def test_conditional_effects_are_judged_before_the_action_and_all_happen(
    state: int, change: Change, conditional: list[tuple[Condition, Change]]
) -> None:
    """The plain reading, on sets of facts."""
    schema = ActionSchema("act", (), (), ())
    after = Operator(schema, (), "act", Condition(0, 0), change, tuple(conditional)).apply(state)
    facts = set(indexes(state))
    active = [change] + [
        then
        for when, then in conditional
        if facts >= set(indexes(when.needs)) and not facts & set(indexes(when.forbids))
    ]
    added = {fact for one in active for fact in indexes(one.add)}
    deleted = {fact for one in active for fact in indexes(one.delete)}
    assert set(indexes(after)) == facts - deleted | added


def test_negated_facts_appear_only_after_an_action_cleared_them() -> None:
    engine = started(compiled(room(GOALS["put"])))
    assert "Next to it, you see nothing" in (engine.step("go to drawer 1"), engine.step("look"))[1]
    engine.step("open drawer 1")
    engine.step("take mug 2 from drawer 1")
    assert any(fact.startswith("not_inreceptacle") for fact in engine.state)
    engine.step("move mug 2 to drawer 1")
    assert not any(fact.startswith("not_inreceptacle") for fact in engine.state)


def test_a_game_must_be_reset_first() -> None:
    with pytest.raises(RuntimeError, match="reset"):
        _ = NativeEngine().goal_progress


@pytest.mark.parametrize("goal", GOALS)
def test_operators_agree_with_the_plain_reading_of_pddl(goal: str) -> None:
    text = room(GOALS[goal])
    game, reference = compiled(text), Reference.read(generated()[0].domain, text)
    choice = random.Random(goal)
    state, facts = game.initial, reference.initial
    for _ in range(60):
        operators = {(op.schema.name, *op.arguments): op for op in game.operators.applicable(state)}
        assert set(operators) == reference.actions(facts)
        assert game.goal.reached(state) == reference.won(facts)
        held = {" ".join(fact) for fact in facts if fact[0] in game.facts.tracked}
        assert {fact for fact in game.facts.spell(state) if not fact.startswith("not_")} == held
        action = choice.choice(sorted(operators))
        state, facts = operators[action].apply(state), reference.apply(facts, action)
        game.operators.discover(state)
