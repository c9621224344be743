"""What a rehearsal prints: a line for each thing that our source uses, and tables of plans."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.api.builds import Pair
from benchmarks.api.check import MISSING, Finding
from benchmarks.api.plans import EngineCase, MemoryCase, PlacementCase, readable
from cluster.runtime.memory_plan import GIB


def show_pairs(pairs: Sequence[Pair], console: Console) -> None:
    """Print which imported packages differ between the lock and this environment."""
    other = [pair for pair in pairs if not pair.same]
    console.print(f"{len(pairs)} packages of requirements/gpu.txt are imported; these have another version here:")
    for pair in other:
        console.print(f"  {pair.package} {pair.locked}, here {pair.installed}")


def show_api(package: str, version: str, findings: Sequence[Finding], console: Console) -> None:
    """Print a line for each thing that is used, with the first place; then how many there were."""
    places: defaultdict[tuple[str, str, str], list[str]] = defaultdict(list)
    for finding in findings:
        places[finding.state, finding.told, finding.note].append(finding.use.where)
    for (state, told, note), where in places.items():
        more = f" and {len(where) - 1} more" if len(where) > 1 else ""
        console.print(f"{state:<8}{told}  {where[0]}{more}{f'  {note}' if note else ''}")
    counts = Counter(finding.state for finding in findings)
    told = ", ".join(f"{count} {state}" for state, count in counts.most_common())
    console.print(f"{package} {version}: {len(findings)} uses: {told}")


def show_engines(cases: Sequence[EngineCase], version: str, console: Console) -> None:
    """Print one engine's arguments in full, then a line for each case with a fault, then their number."""
    first = cases[0]
    console.print(f"engine of preset {first.preset}, {first.model}, {first.variant}:")
    for name, value in first.arguments.items():
        console.print(f"  {name} = {readable(value)!r}")
    for case in cases:
        for fault in case.faults:
            console.print(f"{MISSING:<8}{case.preset}, {case.model}, {case.variant}: {fault}")
    wrong = sum(bool(case.faults) for case in cases)
    names = {name for case in cases for name in case.arguments}
    console.print(f"{len(cases)} engines, {len(names)} different arguments: vLLM {version} would refuse {wrong}")


def show_memory(cases: Sequence[MemoryCase], console: Console) -> None:
    """Print what each preset needs of a card with each model."""
    table = Table(title="Memory plan (GiB on each GPU)", title_justify="left")
    for heading in ("preset", "model", "learner", "of", "engine weights", "of", "sequences", "fits with"):
        table.add_column(heading)
    for case in cases:
        plan = case.plan
        row = [f"{sum(plan.learner.values()) / GIB:.1f}", room(plan.learner_room)]
        row += [f"{plan.engine['weights'] / GIB:.1f}", room(plan.engine_room), str(plan.sequences)]
        mends = " ".join(plan.mends) if plan.mends else "nothing" if plan.complaints() else "as it is"
        table.add_row(case.preset, case.config.policy.model.rpartition("/")[2], *row, mends)
    console.print(table)


def show_placement(cases: Sequence[PlacementCase], console: Console) -> None:
    """Print what would lie on each node."""
    table = Table(title="Placement", title_justify="left")
    for heading in ("preset", "on", "node", "engines", "learners", "environments", "GPUs", "CPUs"):
        table.add_column(heading)
    for case in cases:
        for number, (node, counted) in enumerate(by_node(case).items()):
            head = (case.preset + (" *" if case.changes else ""), case.machine) if not number else ("", "")
            table.add_row(*head, node, *counted)
    console.print(table)
    for changes in {case.changes for case in cases if case.changes}:
        console.print(f"* {' '.join(changes)}")


def by_node(case: PlacementCase) -> dict[str, tuple[str, ...]]:
    """Of every node: engines, learner workers, environment processes, GPUs and CPUs taken; what fits nowhere last."""
    placed = [*case.plan.assigned, *((demand, "nowhere") for demand in case.plan.unplaced)]
    found = {}
    for node in sorted({node for _, node in placed}):
        here = [demand for demand, name in placed if name == node]
        kinds = Counter(demand.name.partition("-")[0] for demand in here)
        gpus, cpus = sum(demand.gpus for demand in here), sum(demand.cpus for demand in here)
        found[node] = (*(str(kinds[kind]) for kind in ("rollout", "learner", "env")), f"{gpus:g}", f"{cpus:g}")
    return found


def room(size: int | None) -> str:
    """A size in GiB; a dash on a CPU."""
    return "-" if size is None else f"{size / GIB:.1f}"
