"""How modules import one another; `make lint` checks the floors (`tool.importlinter` in pyproject.toml)."""

from __future__ import annotations

from graphlib import TopologicalSorter

import grimp

PACKAGES = ("actors", "cluster", "envs", "experience", "learners", "router", "trajectories")


def test_no_modules_import_one_another_in_a_circle() -> None:
    """Imports inside functions count: such a one only hides a circle."""
    graph = grimp.build_graph(*PACKAGES, exclude_type_checking_imports=True, cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    TopologicalSorter(imports).prepare()  # raises CycleError, which names the circle
