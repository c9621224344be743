"""The ways through the code that docs/architecture.md shows are there: every function in its file, with that call."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]
HOP = re.compile(r"^\| *\d? *\| `([\w.]+)` in `([\w./]+)`[^|]*\| `([^`(]+)\(", re.MULTILINE)
HOPS = HOP.findall((REPO / "docs" / "architecture.md").read_text(encoding="utf-8"))


def test_both_ways_are_found_in_the_page() -> None:
    assert len(HOPS) == 13


@pytest.mark.parametrize(("function", "file", "call"), HOPS)
def test_a_hop_leads_where_the_page_says(function: str, file: str, call: str) -> None:
    source = (REPO / file).read_text(encoding="utf-8")
    found: ast.AST = ast.parse(source)
    for name in function.split("."):
        found = next(node for node in ast.iter_child_nodes(found) if getattr(node, "name", None) == name)
    assert f"{call}(" in (ast.get_source_segment(source, found) or "")
