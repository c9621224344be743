"""Where the run's actors go: `plan_placement` is a pure function of what the run asks for and what the cluster has.

Either every actor has a node, and the plan says which, or the plan carries a shortfall and the run does not start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trajectories.errors import UserError

EPSILON = 1e-6


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the cluster: CPU cores and GPUs that no one has taken."""

    name: str
    cpus: float
    gpus: float


@dataclass(frozen=True, slots=True)
class Demand:
    """One actor's demand. Fractions are allowed: two actors of half a GPU share one."""

    name: str
    cpus: float
    gpus: float

    def fits(self, node: Node) -> bool:
        return self.cpus <= node.cpus + EPSILON and self.gpus <= node.gpus + EPSILON


@dataclass(frozen=True, slots=True)
class PlacementPlan:
    """`assigned` pairs every demand that fits with its node; `unplaced` are those that fit nowhere."""

    nodes: tuple[Node, ...]
    assigned: tuple[tuple[Demand, str], ...]
    unplaced: tuple[Demand, ...]

    @property
    def feasible(self) -> bool:
        return not self.unplaced

    def rows(self) -> list[tuple[str, str, str, str]]:
        """(actor, CPUs, GPUs, node) of every actor, in order; the node of an actor that fits nowhere is `-`."""
        placed = [(demand.name, f"{demand.cpus:g}", f"{demand.gpus:g}", node) for demand, node in self.assigned]
        return placed + [(demand.name, f"{demand.cpus:g}", f"{demand.gpus:g}", "-") for demand in self.unplaced]

    def shortfall(self) -> str:
        """The first line says what is missing; a table of demanded against free per node follows."""
        cpus = sum(demand.cpus for demand in self.unplaced)
        gpus = sum(demand.gpus for demand in self.unplaced)
        lines = [
            f"{len(self.unplaced)} of {len(self.unplaced) + len(self.assigned)} actors fit on no node "
            f"({cpus:g} CPUs and {gpus:g} GPUs too few): add nodes, or lower placement.* with --set.",
            f"{'node':<24}{'demanded CPU':>14}{'free CPU':>10}{'demanded GPU':>14}{'free GPU':>10}",
        ]
        for node in self.nodes:
            here = [demand for demand, name in self.assigned if name == node.name]
            lines.append(_table_row(node.name, here, f"{node.cpus:g}", f"{node.gpus:g}"))
        lines += [_table_row(f"({demand.name})", [demand], "-", "-") for demand in self.unplaced]
        return "\n".join(lines)


def _table_row(name: str, demands: Sequence[Demand], free_cpus: str, free_gpus: str) -> str:
    cpus, gpus = sum(demand.cpus for demand in demands), sum(demand.gpus for demand in demands)
    return f"{name:<24}{cpus:>14g}{free_cpus:>10}{gpus:>14g}{free_gpus:>10}"


def plan_placement(demands: Sequence[Demand], nodes: Sequence[Node]) -> PlacementPlan:
    """Put each demand on a node: the largest first (GPUs, then CPUs), each on the fullest node that still holds it."""
    free = {node.name: node for node in nodes}
    assigned: list[tuple[Demand, str]] = []
    unplaced: list[Demand] = []
    for demand in sorted(demands, key=lambda demand: (-demand.gpus, -demand.cpus)):
        candidates = [node for node in free.values() if demand.fits(node)]
        if not candidates:
            unplaced.append(demand)
            continue
        node = min(candidates, key=lambda node: (node.gpus, node.cpus))
        free[node.name] = Node(node.name, node.cpus - demand.cpus, node.gpus - demand.gpus)
        assigned.append((demand, node.name))
    return PlacementPlan(tuple(nodes), tuple(assigned), tuple(unplaced))


async def preflight(
    demands: Sequence[Demand],
    inventory: Callable[[], Sequence[Node]],
    wait_s: float,
    say: Callable[[str], None],
    poll_s: float = 1.0,
) -> PlacementPlan:
    """Wait up to `wait_s` seconds until every demand fits what is free (a cluster may still be growing).

    `inventory` is asked again every `poll_s` seconds. Raises UserError with the shortfall table when time is up.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait_s
    told = False
    while True:
        plan = plan_placement(demands, inventory())
        if plan.feasible:
            return plan
        if loop.time() >= deadline:
            raise UserError(plan.shortfall())
        if not told:
            say(f"waiting up to {wait_s:g} s for resources for {', '.join(demand.name for demand in plan.unplaced)}")
            told = True
        await asyncio.sleep(min(poll_s, max(0.0, deadline - loop.time())))
