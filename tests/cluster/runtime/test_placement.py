"""The placement plan: pure, never over-books a node, and says what is missing."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.runtime.placement import Demand, Node, plan_placement, preflight
from trajectories.errors import UserError

ROLLOUT, LEARNER, HOST = Demand("rollout-0", 4, 1), Demand("learner-0", 4, 1), Demand("env-0", 1, 0)


def test_disaggregated_actors_get_a_gpu_each():
    plan = plan_placement([ROLLOUT, LEARNER, HOST], [Node("a", 8, 1), Node("b", 8, 1)])
    assert plan.feasible
    nodes = dict((demand.name, node) for demand, node in plan.assigned)
    assert {nodes["rollout-0"], nodes["learner-0"]} == {"a", "b"}


def test_colocated_halves_share_one_gpu():
    halves = [Demand("rollout-0", 2, 0.5), Demand("learner-0", 2, 0.5)]
    assert plan_placement(halves, [Node("a", 4, 1)]).feasible
    assert not plan_placement([*halves, Demand("x", 0, 0.1)], [Node("a", 4, 1)]).feasible


def test_the_shortfall_names_actors_and_free_resources_per_node():
    text = plan_placement([ROLLOUT, LEARNER], [Node("only", 8, 1)]).shortfall()
    assert text.startswith("1 of 2 actors fit on no node (4 CPUs and 1 GPUs too few)")
    assert "only" in text and "(learner-0)" in text


sizes = st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0])


@given(st.lists(st.tuples(sizes, sizes), max_size=8), st.lists(st.tuples(sizes, sizes), max_size=4))
def test_no_node_is_ever_overbooked_and_no_actor_is_lost(demanded, offered):
    demands = [Demand(f"d{at}", *need) for at, need in enumerate(demanded)]
    nodes = [Node(f"n{at}", *free) for at, free in enumerate(offered)]
    plan = plan_placement(demands, nodes)
    assert len(plan.assigned) + len(plan.unplaced) == len(demands)
    for node in nodes:
        here = [demand for demand, name in plan.assigned if name == node.name]
        assert sum(demand.cpus for demand in here) <= node.cpus + 1e-9
        assert sum(demand.gpus for demand in here) <= node.gpus + 1e-9


def test_preflight_waits_for_a_node_that_joins():
    offers = iter([[], [], [Node("late", 8, 2)]])
    said = []
    plan = asyncio.run(preflight([ROLLOUT], lambda: next(offers), wait_s=5, say=said.append, poll_s=0.01))
    assert plan.feasible
    assert said == ["waiting up to 5 s for resources for rollout-0"]


def test_preflight_gives_up_in_time_with_the_table():
    with pytest.raises(UserError, match="1 of 1 actors fit on no node"):
        asyncio.run(preflight([ROLLOUT], lambda: [Node("small", 1, 0)], wait_s=0.05, say=lambda _: None, poll_s=0.01))
