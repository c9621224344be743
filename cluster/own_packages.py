"""Concerto's packages have general names: a folder `envs` of the user's on PYTHONPATH would hide ours."""

from __future__ import annotations

import os
import sys
from importlib.machinery import PathFinder
from pathlib import Path

PACKAGES = ("actors", "cluster", "envs", "experience", "learners", "router", "trajectories")
HOME = Path(__file__).parents[1]
"""The folder that holds Concerto's own."""


def prefer_own_packages() -> None:
    """Put our packages before others of the same names, here and in all processes below, and say so in one line.

    Call it before any other of our packages is imported.
    """
    hidden = [found for name in PACKAGES if (found := _found(name)) is not None and found.parent != HOME]
    if not hidden:
        return
    print(f"concerto: {hidden[0]} has the name of a package of Concerto, which goes before it", file=sys.stderr)
    sys.path.insert(0, str(HOME))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(HOME), os.environ.get("PYTHONPATH"))))


def _found(name: str) -> Path | None:
    """The folder or file of that name that `sys.path` leads to first; None where it leads to none."""
    spec = PathFinder.find_spec(name)
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations))).resolve()
    return Path(spec.origin).resolve() if spec.origin else None
