"""Prices and price caps: drawn once with a fixed seed, then frozen.

The original draws both anew in every process, so that the same goal is sometimes winnable and sometimes not. Here a
product's draws depend on its asin alone, are written to `prices.json`, and the file's hash is part of the panel. A data
folder that has a `prices.json` of its own keeps it: that is how a set of prices travels with its data.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envs.webshop.products import DEFAULT_PRICE, Product
from trajectories.errors import UserError
from trajectories.files import reading

PRICES_FILE = "prices.json"
SEED = 233
CAPS = tuple(10.0 * tens for tens in range(1, 100))
NO_CAP = 1_000_000.0
"""The cap of a goal whose instruction names no price."""


@dataclass(frozen=True, slots=True)
class ProductPrices:
    """What a product costs, and the caps of its goals, all in dollars."""

    price: float
    synthetic_cap: float | None
    human_caps: tuple[float, ...]


def draw_prices(product: Product) -> ProductPrices:
    """Price: the listed one, or uniform within the listed range. One cap for all synthetic goals, one a human goal."""
    generator = random.Random(f"{SEED}:{product.asin}")
    listed = product.listed_prices or (DEFAULT_PRICE,)
    price = listed[0] if len(listed) == 1 else generator.uniform(*listed)
    return ProductPrices(
        price=price,
        synthetic_cap=None if product.instruction is None else draw_cap(price, generator),
        human_caps=tuple(draw_cap(price, generator) for _ in product.human_instructions),
    )


def draw_cap(price: float, generator: random.Random) -> float:
    """The larger of two different caps among the four lowest above `price`; `NO_CAP` where there are fewer than two."""
    candidates = [cap for cap in CAPS if cap > price][:4]
    return max(generator.sample(candidates, 2)) if len(candidates) >= 2 else NO_CAP


def cap_text(cap: float) -> str:
    """The end of an instruction with this cap."""
    return "" if cap == NO_CAP else f", and price lower than {cap:.2f} dollars"


class PriceBook:
    """All prices of a catalogue, either drawn or taken from a frozen file.

    Only products with something to draw (a price range or a goal) are in the file.
    """

    def __init__(self, frozen: Path | None = None) -> None:
        self._frozen_path = frozen
        self._frozen = None if frozen is None else _read(frozen)
        self._entries: dict[str, list[Any]] = {}

    def prices(self, product: Product) -> ProductPrices:
        """Raises UserError if the frozen file does not fit the product."""
        prices = draw_prices(product)
        if len(product.listed_prices) < 2 and prices.synthetic_cap is None and not prices.human_caps:
            return prices
        if self._frozen is not None:
            prices = self._take(product, self._frozen.get(product.asin), prices)
        self._entries[product.asin] = [prices.price, prices.synthetic_cap, list(prices.human_caps)]
        return prices

    def _take(self, product: Product, entry: Any, drawn: ProductPrices) -> ProductPrices:
        match entry:
            case [float(price), float() | None as cap, [*human_caps]] if (
                (cap is None) == (drawn.synthetic_cap is None)
                and len(human_caps) == len(drawn.human_caps)
                and all(isinstance(human_cap, float) for human_cap in human_caps)
            ):
                return ProductPrices(price, cap, tuple(human_caps))
        raise UserError(
            f"{self._frozen_path} does not fit the catalogue at product {product.asin}; "
            "delete it, or use the one that was made from this catalogue"
        )

    def write(self, directory: Path) -> str:
        """Write `prices.json`; returns the SHA-256 of its bytes."""
        content = json.dumps({"seed": SEED, "products": self._entries}, sort_keys=True, separators=(",", ":")).encode()
        (directory / PRICES_FILE).write_bytes(content)
        return hashlib.sha256(content).hexdigest()


def _read(path: Path) -> Mapping[str, Any]:
    with reading(path, "delete it to draw prices anew"):
        content = json.loads(path.read_text(encoding="utf-8"))
    products = content.get("products") if isinstance(content, Mapping) else None
    if not isinstance(products, Mapping):
        raise UserError(f"{path} is no price file: `products` must be an object; delete it to draw prices anew")
    return products
