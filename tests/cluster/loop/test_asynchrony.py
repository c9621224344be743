"""The control loop on simulated engines and a clock that jumps: nothing here depends on the machine's speed."""

from __future__ import annotations

from benchmarks.asynchrony import Plan, simulate
from cluster.runtime.fleet import IN_HAND

PLAN = Plan(actors=8, batch=16, steps=20, lengths="reasoning")


def test_playing_while_the_learner_steps_more_than_doubles_what_is_trained_in_a_time():
    waiting, overlapping = simulate(PLAN, max_staleness=0, in_hand=IN_HAND), simulate(PLAN, 2, IN_HAND)
    assert waiting.staleness == 0 and 1 < overlapping.staleness <= 2
    assert overlapping.groups_per_hour > 2 * waiting.groups_per_hour


def test_engines_that_have_groups_waiting_stand_idle_less():
    plain, in_hand = simulate(PLAN, 4, 1.0), simulate(PLAN, 4, IN_HAND)
    assert in_hand.groups_per_hour > 1.3 * plain.groups_per_hour and in_hand.engines > 1.3 * plain.engines
