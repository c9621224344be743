"""Goals: what the shopper is asked to buy, in the canonical order whose index is the task id.

*Synthetic* goals: a product with an instruction gives one goal for each element of the cartesian product of its option
values. *Human* goals: one for each instruction a person wrote for the product. Both are listed in catalogue order and
shuffled with seed 233; the order depends on their number alone, so the indices are those of the original.

A goal is stored as (product row, variant, price cap), 16 bytes; its text is made when it is asked for.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from envs.webshop.prices import ProductPrices, cap_text
from envs.webshop.products import Product
from trajectories.errors import UserError

GoalKind = Literal["synthetic", "human"]
GOAL_KINDS: tuple[GoalKind, ...] = get_args(GoalKind)
GOAL_RECORD = np.dtype([("product", np.int32), ("variant", np.int32), ("price_upper", np.float64)])
SHUFFLE_SEED = 233
DEV_START = 500
TRAIN_START = 1500
SPLIT_STARTS = {"test": 0, "dev": DEV_START, "train": TRAIN_START}
"""Split → its first goal."""
SPLITS = tuple(SPLIT_STARTS)
MAX_VARIANTS = 1_000_000
"""A product with more combinations of option values would fill the memory, in the original as well."""
GoalOption = tuple[str, str] | str
"""(name, value) in synthetic goals; the bare value in human ones."""


@dataclass(frozen=True, slots=True)
class Goal:
    """What the shopper is asked to buy.

    Attributes:
        index: place in the canonical order; `str(index)` is the task id.
        price_upper: dollars; `prices.NO_CAP` where the instruction names no price.
        category_path, nouns: of the goal product, for the type reward.
    """

    index: int
    instruction: str
    asin: str
    product_title: str
    query: str
    attributes: tuple[str, ...]
    options: tuple[GoalOption, ...]
    price_upper: float
    category_path: str
    nouns: tuple[str, ...]


def split_range(split: str, count: int) -> range:
    """Indices of a split among `count` goals: test 0-499, dev 500-1499, train from 1500. Raises UserError."""
    if split not in SPLIT_STARTS:
        raise UserError(f"WebShop has no split {split!r}; choose one of {', '.join(SPLITS)}")
    start = SPLIT_STARTS[split]
    end = min((other for other in SPLIT_STARTS.values() if other > start), default=count)
    return range(min(start, count), min(end, count))


def goal_records(kind: GoalKind, row: int, product: Product, prices: ProductPrices) -> npt.NDArray[np.void]:
    """The records of one product's goals, before shuffling."""
    if kind == "human":
        caps: Sequence[float] = prices.human_caps
        count = len(caps)
    else:
        count = synthetic_variants(product)
        caps = [prices.synthetic_cap or 0.0] * min(1, count)
    records = np.empty(count, dtype=GOAL_RECORD)
    records["product"], records["variant"], records["price_upper"] = row, np.arange(count), caps
    return records


def synthetic_variants(product: Product) -> int:
    """How many synthetic goals a product gives: 0 without an instruction or with more than `MAX_VARIANTS`."""
    if product.instruction is None:
        return 0
    count = math.prod(len(values) for _, values in product.options)
    return count if count <= MAX_VARIANTS else 0


def canonical_order(count: int) -> npt.NDArray[np.int64]:
    """`[canonical index] -> unshuffled index`."""
    order = list(range(count))
    random.Random(SHUFFLE_SEED).shuffle(order)
    return np.array(order, dtype=np.int64)


def make_goal(kind: GoalKind, index: int, product: Product, variant: int, price_upper: float) -> Goal:
    """The goal of one record."""
    if kind == "human":
        human = product.human_instructions[variant]
        text, attributes, options = human.text.strip("."), human.attributes, human.options
    else:
        options = combination(product, variant)
        chosen = ", and ".join(f"{name}: {value}" for name, value in options)
        text = f"{product.instruction}{' with ' + chosen if chosen else ''}"
        attributes = product.instruction_attributes
    return Goal(
        index=index,
        instruction=text + cap_text(price_upper),
        asin=product.asin,
        product_title=product.title,
        query=product.query,
        attributes=attributes,
        options=options,
        price_upper=price_upper,
        category_path=product.category_path,
        nouns=product.nouns,
    )


def combination(product: Product, variant: int) -> tuple[tuple[str, str], ...]:
    """Element `variant` of the product of the option values, by sorted option names; the last one varies fastest."""
    chosen: list[tuple[str, str]] = []
    for name, values in sorted(product.options, reverse=True):
        variant, place = divmod(variant, len(values))
        chosen.append((name, values[place]))
    return tuple(reversed(chosen))
