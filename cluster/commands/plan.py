"""`concerto plan`: what a run needs of each GPU's memory, and where every actor would go on the running cluster."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from cluster.config.run import RunSettings
from cluster.inputs.model_check import check_model
from cluster.inputs.models import check_trainable, resolve_model
from cluster.runtime.memory_plan import GIB, MemoryPlan, plan_memory
from cluster.runtime.placement import plan_placement
from cluster.runtime.session import cluster_nodes, companions, ray_cluster, run_demands
from learners.policy.memory import shape_of
from learners.policy.outline import outline
from trajectories.errors import UserError


def show_plan(config: RunSettings, console: Console) -> None:
    """Print the memory plan, which needs no cluster, then the placement plan against what is free now.

    Raises UserError with the shortfall when it does not fit, or what is wrong with the model, which comes last, since
    a plan may be wanted where the model is not at hand.
    """
    _show_memory(config, console)
    with ray_cluster(config.placement):
        nodes = cluster_nodes()
    plan = plan_placement(run_demands(config), nodes)
    table = Table(title="Placement plan", title_justify="left")
    for heading in ("actor", "CPUs", "GPUs", "node"):
        table.add_column(heading)
    for row in plan.rows():
        table.add_row(*row)
    for actor, where in companions(config):
        table.add_row(actor, "0", "0", where)
    console.print(table)
    if not plan.feasible:
        raise UserError(plan.shortfall())
    check_trainable(check_model(config), config.policy)


def _show_memory(config: RunSettings, console: Console) -> None:
    try:
        shape = shape_of(outline(resolve_model(config.policy.model)))
    except UserError as error:
        console.print(f"No memory plan: {error}", soft_wrap=True, highlight=False, markup=False)
        return
    plan = plan_memory(config, shape)
    console.print(memory_table(plan, shape.weights, config))
    for line in plan.complaints():
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def memory_table(plan: MemoryPlan, weights: int, config: RunSettings) -> Table:
    """The plan in GiB, a row for each thing that takes memory."""
    title = f"Memory plan of {config.policy.model}, {weights / 1e9:.2f} billion weights"
    table = Table(title=title, title_justify="left")
    for heading in ("on each", "for", "GiB", ""):
        table.add_column(heading, justify="right" if heading == "GiB" else "left")
    sides = {True: "with", False: "without"}
    notes = {
        "activations": f"{plan.otherwise / GIB:.2f} {sides[not config.policy.gradient_checkpointing]} "
        "policy.gradient_checkpointing",
        "gradients": f"learner.reduce_gradients={config.learner.reduce_gradients}",
    }
    for name, size in plan.learner.items():
        table.add_row("learner worker", name, f"{size / GIB:.2f}", notes.get(name, ""))
    table.add_row("learner worker", "all", f"{sum(plan.learner.values()) / GIB:.2f}", _of(plan.learner_room))
    table.add_section()
    cards = config.fitted_rollout.engine.tensor_parallel
    part = "engine" if cards == 1 else f"of {cards} GPUs of an engine"
    table.add_row(part, "weights", f"{plan.engine['weights'] / GIB:.2f}", _of(plan.engine_room))
    full = f"{config.rollout.engine.max_num_seqs} sequences of {config.rollout.engine.max_model_len} tokens"
    held = "" if plan.sequences is None else f"; {plan.sequences} have room"
    table.add_row(part, "KV cache", f"{plan.engine['KV cache'] / GIB:.2f}", full + held)
    return table


def _of(room: int | None) -> str:
    return "on a CPU" if room is None else f"of {room / GIB:.2f}"
