"""The catalogue: products, prices, goals and search index, built once a node and shared by all processes.

Building writes a folder under the cache (`storage.cache_root()`); opening maps it. The folder holds `products` (one
JSON record each), `prices.npy` (dollars, by product), `goals_synthetic.npy` and `goals_human.npy` (`goals.GOAL_RECORD`,
in canonical order), `index/`, the frozen `prices.json` and `manifest.json`.
"""

from __future__ import annotations

import hashlib
import json
import logging
from array import array
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from envs.webshop.generator import default_rows, fingerprint
from envs.webshop.goals import GOAL_KINDS, GOAL_RECORD, Goal, GoalKind, canonical_order, goal_records, make_goal
from envs.webshop.index import IndexBuilder, SearchIndex
from envs.webshop.nouns import Tagger, noun_finder
from envs.webshop.prices import PRICES_FILE, PriceBook
from envs.webshop.products import Product, RowError, parse_product
from envs.webshop.sources import SourceRow, find_files, installed_folder
from envs.webshop.storage import Records, RecordWriter, build_once, cache_root, map_array
from trajectories.errors import UserError

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
"""Part of the cache key: raise it when the files or their meaning change."""
GENERATED = "generated"
"""As `data`: the generated catalogue, whatever is installed."""
MANIFEST_FILE = "manifest.json"
MAX_REPORTED = 100
CACHED_PRODUCTS = 256
CACHED_SEARCHES = 256


@dataclass(frozen=True, slots=True)
class Manifest:
    """What was built, from what.

    Attributes:
        content_hash: SHA-256 over all products (without nouns) and the frozen prices.
        prices_hash: SHA-256 of `prices.json`.
        refused: number of rows that did not become products.
        reports: for the first 100 of them, `file row number: reason`.
    """

    products: int
    content_hash: str
    prices_hash: str
    tagger: str
    refused: int
    reports: tuple[str, ...]

    def write(self, directory: Path) -> None:
        (directory / MANIFEST_FILE).write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")

    @classmethod
    def read(cls, directory: Path) -> Manifest:
        fields = json.loads((directory / MANIFEST_FILE).read_text(encoding="utf-8"))
        return cls(**fields | {"reports": tuple(fields["reports"])})


def open_catalogue(data: str | Path | None = None, tagger: Tagger = "textblob") -> Catalogue:
    """The catalogue of a folder with the original's files; of the installed ones where `data` is None.

    The generated catalogue is opened where none are installed, and for `data="generated"`. A catalogue that this node
    has not got is built first; the same process gets the same object.

    Raises:
        UserError: no, ambiguous or damaged data, or the tagger is missing.
    """
    data = data or installed_folder() or GENERATED
    if data == GENERATED:
        key = f"generated-{fingerprint()}"
        return _opened(cache_root() / "webshop" / f"{key}-v{FORMAT_VERSION}-{tagger}", None, tagger)
    files = find_files(Path(data))
    return _opened(
        cache_root() / "webshop" / f"{files.fingerprint()[:32]}-v{FORMAT_VERSION}-{tagger}", Path(data), tagger
    )


@lru_cache(maxsize=4)
def _opened(directory: Path, data: Path | None, tagger: Tagger) -> Catalogue:
    def build(aside: Path) -> None:
        if data is None:
            build_catalogue(default_rows(), aside, tagger)
        else:
            files = find_files(data)
            build_catalogue(files.rows(), aside, tagger, files.prices)

    build_once(directory, build)
    return Catalogue(directory)


def build_catalogue(
    rows: Iterable[SourceRow], directory: Path, tagger: Tagger = "textblob", frozen_prices: Path | None = None
) -> Manifest:
    """Write a catalogue into the empty folder `directory`.

    Rows that cannot become products, and repeated asins, are left out, logged and listed in the manifest.

    Raises:
        UserError: not one row became a product, or the frozen prices do not fit.
    """
    find_nouns = noun_finder(tagger)
    book = PriceBook(frozen_prices)
    index = IndexBuilder(directory / "index")
    digest = hashlib.sha256()
    prices = array("d")
    goals: dict[GoalKind, list[np.ndarray]] = {kind: [] for kind in GOAL_KINDS}
    rows_by_asin: dict[str, int] = {}
    reports: list[str] = []
    refused = 0
    with RecordWriter(directory, "products") as writer:
        for row in rows:
            try:
                product = parse_product(row.product, row.annotation, row.human)
                if product.asin in rows_by_asin:
                    raise RowError(f"asin {product.asin} was there before")
            except RowError as error:
                refused += 1
                if len(reports) < MAX_REPORTED:
                    reports.append(f"{row.place}: {error}")
                continue
            number = rows_by_asin[product.asin] = len(rows_by_asin)
            digest.update(product.to_json())
            product = replace(product, nouns=find_nouns(product.title))
            writer.append(product.to_json())
            index.add(product.search_text)
            product_prices = book.prices(product)
            prices.append(product_prices.price)
            for kind in GOAL_KINDS:
                if len(records := goal_records(kind, number, product, product_prices)):
                    goals[kind].append(records)
    if not rows_by_asin:
        raise UserError(f"not one product could be read{': ' + reports[0] if reports else ''}")
    _log_refused(refused, reports)
    index.finish(list(rows_by_asin))
    np.save(directory / "prices.npy", np.frombuffer(prices, dtype=np.float64))
    for kind, pieces in goals.items():
        unshuffled = np.concatenate([np.empty(0, dtype=GOAL_RECORD), *pieces])
        np.save(directory / f"goals_{kind}.npy", unshuffled[canonical_order(len(unshuffled))])
    prices_hash = book.write(directory)
    digest.update(prices_hash.encode())
    manifest = Manifest(len(rows_by_asin), digest.hexdigest(), prices_hash, tagger, refused, tuple(reports))
    manifest.write(directory)
    return manifest


def _log_refused(refused: int, reports: list[str]) -> None:
    for report in reports:
        logger.warning("left out %s", report)
    if refused > len(reports):
        logger.warning("left out %d more rows", refused - len(reports))


class Catalogue:
    """An open catalogue. Its files are mapped into memory; only the last few products and searches are kept decoded."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.manifest = Manifest.read(directory)
        self._records = Records(directory, "products")
        self._prices = map_array(directory, "prices")
        self._goals = {kind: map_array(directory, f"goals_{kind}") for kind in GOAL_KINDS}
        self.index = SearchIndex(directory / "index")
        self.product = lru_cache(CACHED_PRODUCTS)(self._read_product)
        self.search = lru_cache(CACHED_SEARCHES)(self._search)

    def __len__(self) -> int:
        return len(self._records)

    @property
    def frozen_prices(self) -> Path:
        return self.directory / PRICES_FILE

    def price(self, row: int) -> float:
        """Dollars that product `row` costs; within its listed range."""
        return float(self._prices[row])

    def goal_count(self, kind: GoalKind) -> int:
        return len(self._goals[kind])

    def goal(self, kind: GoalKind, index: int) -> Goal:
        """Goal `index` of the canonical order."""
        row, variant, price_upper = self._goals[kind][index].item()
        return make_goal(kind, index, self.product(row), variant, price_upper)

    def _read_product(self, row: int) -> Product:
        return Product.from_json(self._records[row])

    def _search(self, query: str, k: int) -> tuple[int, ...]:
        return tuple(self.index.search(query, k))
