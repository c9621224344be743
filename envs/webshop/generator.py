"""The generated catalogue: products and instructions made from word lists, so that WebShop runs without any download.

Rows have the fields of the original's files and go through the same checks. Row n depends on n and the seed alone.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envs.webshop.sources import SourceRow

DEFAULT_PRODUCTS = 1000
DEFAULT_SEED = 7
INSTRUCTION_SHARE = 0.45
"""Share of products that are a goal, about that of the original's 1,000 products."""

_ASIN_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_ASIN_SPACE = 36**9
_ASIN_STRIDE = 38_183_918_141_119
"""Odd and no multiple of 3, so that consecutive rows get different asins all through the space."""

_BRANDS = (
    "Alderway Bluefern Cascadia Dunmore Elmstead Fairhollow Greymoor Halden Ironleaf Junara Kestrel Lindqvist Marlowe "
    "Northbay Oakhurst Pinecrest Quillon Ravenna Silverpine Tamarack Umberline Valeron Westmark Yarrow Zephyra"
)
_ADJECTIVES = "Classic Modern Premium Everyday Signature Compact Deluxe Vintage Essential Original Studio Urban Coastal"
_COLORS = "black white red blue green navy grey pink purple brown beige yellow orange teal khaki"
BRANDS, ADJECTIVES, COLORS = tuple(_BRANDS.split()), tuple(_ADJECTIVES.split()), tuple(_COLORS.split())
CLOTHES_SIZES = ("small", "medium", "large", "x-large", "xx-large")
SHOE_SIZES = ("6", "6.5", "7", "7.5", "8", "8.5", "9", "9.5", "10", "11")
USES = ("daily wear", "outdoor trips", "the office", "small apartments", "gifts", "travel", "weekends", "busy mornings")


@dataclass(frozen=True, slots=True)
class ProductKind:
    """What products of one kind have in common. `options` maps an option's name to its possible values."""

    query: str
    noun: str
    path: str
    attributes: tuple[str, ...]
    options: dict[str, tuple[str, ...]]
    price: tuple[int, int]


def _kind(query: str, noun: str, path: str, attributes: str, price: tuple[int, int], **options: Any) -> ProductKind:
    return ProductKind(query, noun, path, tuple(attributes.split(", ")), options, price)


KINDS = (
    _kind(
        "men's casual shirts",
        "Button Down Shirt",
        "Clothing, Shoes & Jewelry › Men › Clothing › Shirts › Casual Button-Down Shirts",
        "machine wash, slim fit, long sleeve, short sleeve, regular fit, moisture wicking, button closure, soft fabric",
        (14, 60),
        color=COLORS,
        size=CLOTHES_SIZES,
    ),
    _kind(
        "women's dresses",
        "Summer Dress",
        "Clothing, Shoes & Jewelry › Women › Clothing › Dresses › Casual",
        "hand wash, long sleeve, short sleeve, elastic waist, high waist, wide leg, polyester spandex, dry clean",
        (18, 90),
        color=COLORS,
        size=CLOTHES_SIZES,
    ),
    _kind(
        "running shoes",
        "Running Shoes",
        "Clothing, Shoes & Jewelry › Men › Shoes › Athletic › Running",
        "rubber sole, non slip, arch support, lace closure, memory foam, light weight, slip resistant, breathable mesh",
        (25, 140),
        color=COLORS,
        size=SHOE_SIZES,
    ),
    _kind(
        "office chairs",
        "Desk Chair",
        "Home & Kitchen › Furniture › Home Office Furniture › Home Office Chairs",
        "height adjustable, lumbar support, high density foam, easy assemble, heavy duty, steel frame, mesh back",
        (60, 320),
        color=COLORS,
    ),
    _kind(
        "table lamps",
        "Table Lamp",
        "Tools & Home Improvement › Lighting & Ceiling Fans › Lamps & Shades › Table Lamps",
        "glass shade, brushed nickel, bronze finish, led light, energy efficient, touch control, solid wood, dimmable",
        (15, 110),
        color=COLORS,
        style=("with usb port", "without usb port", "set of two"),
    ),
    _kind(
        "green tea",
        "Green Tea",
        "Grocery & Gourmet Food › Beverages › Bottled Beverages, Water & Drink Mixes › Tea › Green",
        "caffeine free, certified organic, sugar free, gluten free, non gmo, individually wrapped, artificial flavors",
        (6, 38),
        flavor=("jasmine", "mint", "lemon", "ginger", "peach", "classic"),
        size=("20 count", "50 count", "100 count"),
    ),
    _kind(
        "snack bars",
        "Protein Snack Bars",
        "Grocery & Gourmet Food › Snack Foods › Bars › Nutrition",
        "gluten free, dairy free, plant based, low sugar, high protein, nut free, keto friendly, soy free",
        (8, 42),
        flavor=("peanut butter", "dark chocolate", "salted caramel", "hazelnut", "coconut", "vanilla"),
        size=("pack of 6", "pack of 12", "pack of 24"),
    ),
    _kind(
        "face moisturizers",
        "Face Cream",
        "Beauty & Personal Care › Skin Care › Face › Creams & Moisturizers › Face Moisturizers",
        "cruelty free, fragrance free, hyaluronic acid, dry skin, sensitive skin, paraben free, anti aging, vitamin c",
        (7, 55),
        scent=("unscented", "rose", "lavender", "green tea", "aloe"),
        size=("1 fl oz", "2 fl oz", "4 fl oz"),
    ),
    _kind(
        "hair brushes",
        "Detangling Hair Brush",
        "Beauty & Personal Care › Hair Care › Styling Tools & Appliances › Hair Brushes",
        "natural hair, damaged hair, easy carry, hair growth, bpa free, scalp massage, curly hair, wet hair",
        (5, 30),
        color=COLORS,
    ),
    _kind(
        "bluetooth headphones",
        "Wireless Headphones",
        "Electronics › Headphones, Earbuds & Accessories › Headphones & Earbuds › Over-Ear Headphones",
        "noise cancelling, long lasting, hands free, stereo sound, fast charging, quick release, carrying case",
        (20, 260),
        color=COLORS,
        style=("over ear", "on ear", "in ear"),
    ),
    _kind(
        "phone cases",
        "Phone Case",
        "Cell Phones & Accessories › Cases, Holsters & Sleeves › Basic Cases",
        "wireless charging, heavy duty, shock absorption, tempered glass, screen protector, water proof, ultra thin",
        (6, 35),
        color=COLORS,
        model=("series 12", "series 13", "series 13 pro", "series 14"),
    ),
    _kind(
        "throw pillows",
        "Throw Pillow Cover",
        "Home & Kitchen › Bedding › Decorative Pillows, Inserts & Covers › Throw Pillow Covers",
        "super soft, machine washable, double sided, living room, memory foam, faux fur, eco friendly, hidden zipper",
        (8, 48),
        color=COLORS,
        size=('16" x 16"', '18" x 18"', '20" x 20"', '26" x 26"'),
    ),
)


def fingerprint() -> str:
    """Of this module: part of the cache key, so that no older generator's catalogue is taken for this one's."""
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]


def default_rows() -> Iterator[SourceRow]:
    """The embedded default catalogue."""
    return generate_rows(DEFAULT_PRODUCTS, DEFAULT_SEED)


def generate_rows(count: int, seed: int) -> Iterator[SourceRow]:
    """`count` rows; a longer catalogue of the same seed starts with the rows of a shorter one."""
    for number in range(count):
        generator = random.Random(f"{seed}:{number}")
        yield _row(number, generator)


def _row(number: int, generator: random.Random) -> SourceRow:
    kind = generator.choice(KINDS)
    attributes = generator.sample(kind.attributes, 5)
    options = {name: _some(values, generator) for name, values in kind.options.items()}
    use = generator.choice(USES)
    brand, adjective = generator.choice(BRANDS), generator.choice(ADJECTIVES)
    title = (
        f"{brand} {adjective} {kind.noun} {_capitals(attributes[0])}, {_capitals(attributes[1])} for {_capitals(use)}"
    )
    asin = _asin(number)
    product = {
        "asin": asin,
        "name": title,
        "full_description": f"This {kind.noun.lower()} by {brand} is made for {use}: {', '.join(attributes)}.",
        "small_description": [
            f"{_capitals(attribute)}: our {adjective.lower()} choice for {use}." for attribute in attributes
        ],
        "customization_options": {name: [{"value": value} for value in values] for name, values in options.items()},
        "query": kind.query,
        "product_category": kind.path,
        "pricing": _pricing(kind.price, generator),
    }
    annotation: dict[str, Any] = {"attributes": attributes}
    if generator.random() < INSTRUCTION_SHARE:
        wanted = generator.sample(attributes, generator.choice((2, 2, 3)))
        annotation["instruction"] = f"Find me {', '.join(wanted[:-1])} {kind.query} with {wanted[-1]}"
        annotation["instruction_attributes"] = wanted
    return SourceRow(f"generated row {number}", product, annotation, None)


def _some(values: tuple[str, ...], generator: random.Random) -> list[str]:
    """Two to five of the values, in their own order."""
    chosen = set(generator.sample(values, generator.randint(2, min(5, len(values)))))
    return [value for value in values if value in chosen]


def _pricing(bounds: tuple[int, int], generator: random.Random) -> str:
    """Mostly one price, sometimes a range, now and then none, as in the original."""
    low = generator.randint(bounds[0] * 100, bounds[1] * 100) / 100
    form = generator.random()
    if form < 0.1:
        return ""
    return f"${low:.2f}" if form < 0.75 else f"${low:.2f} - ${low * generator.uniform(1.1, 1.8):.2f}"


def _capitals(text: str) -> str:
    return " ".join(word.capitalize() for word in text.split())


def _asin(number: int) -> str:
    """Ten characters, different for each row below 36**9."""
    value = (number + 1) * _ASIN_STRIDE % _ASIN_SPACE
    digits = []
    for _ in range(9):
        value, digit = divmod(value, 36)
        digits.append(_ASIN_DIGITS[digit])
    return "B" + "".join(digits)
