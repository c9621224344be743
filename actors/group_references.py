"""How finished groups travel from rollouts to whoever needs their tables: as references, past the coordinator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa

from actors import runtime


class GroupTables(NamedTuple):
    """A finished group: one row an episode, one row a training sequence."""

    episodes: pa.Table
    sequences: pa.Table


class GroupReferences(NamedTuple):
    """References to the tables of a group, which lie in the object store."""

    episodes: Any
    sequences: Any


@dataclass(frozen=True, slots=True)
class StepGroups:
    """The groups of one learner step, as one argument of an actor's method."""

    groups: tuple[GroupReferences, ...]

    def fetch(self) -> list[GroupTables]:
        """Their tables, in order, as views of shared memory. For the actor that got them: Ray resolves a reference
        only where it is an argument of its own, not inside one."""
        tables = runtime.get([reference for group in self.groups for reference in group])
        return [GroupTables(*pair) for pair in zip(tables[::2], tables[1::2], strict=True)]
