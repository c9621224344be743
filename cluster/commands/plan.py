"""`concerto plan`: where every actor would go on the running cluster."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from cluster.config.run import RunSettings
from cluster.inputs.model_check import check_model
from cluster.runtime.placement import plan_placement
from cluster.runtime.session import cluster_nodes, learner_demands, ray_cluster, rollout_demands
from trajectories.errors import UserError


def show_plan(config: RunSettings, console: Console) -> None:
    """Print the placement plan against what is free now.

    Raises UserError with the shortfall when it does not fit, or what is wrong with the model, which comes last, since
    a plan may be wanted where the model is not at hand.
    """
    with ray_cluster(config.placement):
        nodes = cluster_nodes()
    plan = plan_placement(rollout_demands(config.placement) + learner_demands(config.placement), nodes)
    table = Table(title="Placement plan", title_justify="left")
    for heading in ("actor", "CPUs", "GPUs", "node"):
        table.add_column(heading)
    for row in plan.rows():
        table.add_row(*row)
    console.print(table)
    if not plan.feasible:
        raise UserError(plan.shortfall())
    check_model(config)
