"""Makers of catalogue rows and data folders."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from envs.webshop.sources import SourceRow


def product_row(asin: str = "B000000001", **changes: Any) -> dict[str, Any]:
    """A row of the products file that passes all checks."""
    return {
        "asin": asin,
        "name": "Red Wool Hat",
        "full_description": "A hat.",
        "small_description": ["Warm", "Soft"],
        "customization_options": {"Color": [{"value": "Red"}, {"value": "Dark/Blue "}], "Size": [{"value": "9"}]},
        "query": " Hats ",
        "product_category": "Clothing › Hats › Wool",
        "pricing": "$12.50",
    } | changes


def annotation(**changes: Any) -> dict[str, Any]:
    return {
        "attributes": ["warm wool", "soft touch"],
        "instruction": "Find me warm wool hats",
        "instruction_attributes": ["warm wool"],
    } | changes


def source_rows(products: Sequence[object], annotations: dict[str, Any] | None = None) -> list[SourceRow]:
    notes = annotations or {}
    return [
        SourceRow(
            f"test row {number}",
            product,
            notes.get(product.get("asin", "")) if isinstance(product, dict) else None,
            None,
        )
        for number, product in enumerate(products)
    ]


def write_data(
    folder: Path, products: Sequence[object], annotations: dict[str, Any], human: dict[str, Any] | None = None
) -> Path:
    """The original's files in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "items_shuffle_1000.json").write_text(json.dumps(products))
    (folder / "items_ins_v2_1000.json").write_text(json.dumps(annotations))
    if human is not None:
        (folder / "items_human_ins.json").write_text(json.dumps(human))
    return folder
