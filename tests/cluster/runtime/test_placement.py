"""The placement plan: pure, never over-books a node, and says what is missing."""

import asyncio
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.config.loading import load_config
from cluster.runtime.placement import Demand, Node, plan_placement, preflight
from cluster.runtime.session import run_demands
from trajectories.errors import UserError

PAGE = Path(__file__).parents[3] / "docs" / "cluster.md"
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


SIDES = ("learner-", "rollout-")


def resources(amount: float, kind: str) -> tuple[float, float]:
    """(CPUs, GPUs): so much of the one, none of the other."""
    return (amount, 0) if kind == "cpus" else (0, amount)


@pytest.mark.parametrize("kind", ["cpus", "gpus"])
@pytest.mark.parametrize("order", [1, -1])
def test_an_actor_goes_to_the_fullest_node_that_holds_it(kind, order):
    nodes = [Node(name, *resources(free, kind)) for name, free in (("full", 1), ("fitting", 2), ("empty", 4))]
    plan = plan_placement([Demand("x", *resources(2, kind))], nodes[::order])
    assert [node for _, node in plan.assigned] == ["fitting"]


@pytest.mark.parametrize("kind", ["cpus", "gpus"])
def test_the_largest_is_placed_first_whatever_the_order_of_the_demands(kind):
    """The small one first would go to the node of two, and leave no room for the second of two."""
    demands = [Demand(f"d{at}", *resources(size, kind)) for at, size in enumerate((1, 2, 2))]
    plan = plan_placement(demands, [Node("two", *resources(2, kind)), Node("three", *resources(3, kind))])
    assert plan.feasible
    assert sorted((demand.name, node) for demand, node in plan.assigned) == [
        ("d0", "three"), ("d1", "two"), ("d2", "three"),
    ]  # fmt: skip


def test_all_gpus_of_an_engine_are_on_one_node():
    """Four nodes of eight GPUs hold sixteen engines of two; as many GPUs in odd numbers hold fewer."""
    engines = [Demand(f"rollout-{at}", 4, 2) for at in range(16)]
    nodes = [Node(f"n{at}", 64, 8) for at in range(4)]
    plan = plan_placement(engines, nodes)
    assert plan.feasible
    assert Counter(node for _, node in plan.assigned) == {node.name: 4 for node in nodes}
    assert [demand.name for demand in plan_placement([*engines, Demand("more", 4, 1)], nodes).unplaced] == ["more"]

    odd = plan_placement(engines, [Node("seven", 64, 7), Node("nine", 64, 9), *nodes[2:]])
    assert len(odd.assigned) == 15
    assert odd.shortfall().startswith("1 of 16 actors fit on no node (4 CPUs and 2 GPUs too few)")


@given(st.integers(1, 8), st.lists(st.integers(0, 8), max_size=6))
def test_as_many_engines_fit_as_each_node_holds_whole(size, gpus):
    nodes = [Node(f"n{at}", 64, count) for at, count in enumerate(gpus)]
    plan = plan_placement([Demand(f"d{at}", 0, size) for at in range(50)], nodes)
    assert len(plan.assigned) == sum(count // size for count in gpus)


@pytest.mark.parametrize("shares", [(1 / 3,) * 3, (0.7, 0.2, 0.1), (0.9, 0.1)])
def test_shares_that_make_one_gpu_fit_on_it_although_floats_round(shares):
    demands = [Demand(f"d{at}", 0, share) for at, share in enumerate(shares)]
    assert plan_placement(demands, [Node("a", 1, 1)]).feasible
    assert not plan_placement([*demands, Demand("more", 0, 0.01)], [Node("a", 1, 1)]).feasible


@pytest.mark.parametrize("settings", re.findall(r"`(placement\.learner_workers=[^`]+)`", PAGE.read_text()))
def test_what_the_page_sets_for_four_nodes_keeps_learners_and_engines_apart(settings):
    nodes = [Node(name, 96, 8) for name in "abcd"]
    plan = plan_placement(run_demands(load_config("cluster", None, settings.split())), nodes)
    assert plan.feasible
    used = {kind: {node for demand, node in plan.assigned if demand.name.startswith(kind)} for kind in SIDES}
    assert (len(used["learner-"]), len(used["rollout-"])) == (1, 3) and not used["learner-"] & used["rollout-"]


def test_the_preset_cluster_fills_a_node_of_eight_gpus():
    plan = plan_placement(run_demands(load_config("cluster", None, [])), [Node("a", 96, 8)])
    assert plan.feasible and sum(demand.gpus for demand, _ in plan.assigned) == 8


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
