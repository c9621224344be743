"""Where catalogue rows come from: a folder with the original's files, or the generator."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envs.download import data_folder
from envs.webshop.prices import PRICES_FILE
from trajectories.errors import UserError
from trajectories.files import reading

SIZES = ("_1000", "")
"""Endings of the original's file names: the 1,000-product catalogue, and the full one."""
ENVIRONMENT = "webshop"
INSTALLED = "files"
HUMAN_FILE = "items_human_ins.json"
CHUNK = 1 << 20
MAX_ROW = 64 << 20
FETCH = (
    "pass the folder with items_shuffle_1000.json and items_ins_v2_1000.json (or the full pair), "
    "or run `concerto data webshop`"
)


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One unchecked row: the product, its attributes and synthetic instruction, and its human instructions."""

    place: str
    product: object
    annotation: object
    human: object


@dataclass(frozen=True, slots=True)
class CatalogueFiles:
    """The original's files in a folder."""

    products: Path
    annotations: Path
    human: Path | None
    prices: Path | None

    def paths(self) -> tuple[Path, ...]:
        """Those that are there."""
        return tuple(path for path in (self.products, self.annotations, self.human, self.prices) if path is not None)

    def fingerprint(self) -> str:
        """Changes when a file is replaced or modified. Contents are hashed when the catalogue is built."""
        states = [(path.name, path.stat()) for path in self.paths()]
        parts = [f"{name}|{st.st_dev}|{st.st_ino}|{st.st_size}|{st.st_mtime_ns}" for name, st in states]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def rows(self) -> Iterator[SourceRow]:
        """All rows, in file order; the products file is never in memory as a whole."""
        annotations = _read_object(self.annotations)
        human = {} if self.human is None else _read_object(self.human)
        for number, product in enumerate(stream_array(self.products)):
            asin = product.get("asin") if isinstance(product, Mapping) else None
            key = asin if isinstance(asin, str) else ""
            yield SourceRow(f"{self.products.name} row {number}", product, annotations.get(key), human.get(key))


def installed_folder() -> Path | None:
    """The folder with the installed files, None if there are none."""
    folder = data_folder(ENVIRONMENT) / INSTALLED
    return folder if folder.is_dir() else None


def find_files(folder: Path) -> CatalogueFiles:
    """The catalogue in `folder`. Raises UserError if there is none, half of one, or more than one."""
    if not folder.is_dir():
        raise UserError(f"no WebShop data at {folder}: it is not a folder; {FETCH}")
    present = [size for size in SIZES if (folder / f"items_shuffle{size}.json").is_file()]
    if len(present) != 1:
        found = "both catalogues are there; keep one of them" if present else f"no products file; {FETCH}"
        raise UserError(f"cannot read WebShop data in {folder}: {found}")
    annotations = folder / f"items_ins_v2{present[0]}.json"
    if not annotations.is_file():
        raise UserError(f"cannot read WebShop data in {folder}: {annotations.name} is missing; {FETCH}")
    human, prices = folder / HUMAN_FILE, folder / PRICES_FILE
    return CatalogueFiles(
        products=folder / f"items_shuffle{present[0]}.json",
        annotations=annotations,
        human=human if human.is_file() else None,
        prices=prices if prices.is_file() else None,
    )


def stream_array(path: Path) -> Iterator[Any]:
    """The elements of a file that holds one JSON array, read in chunks. Raises UserError where it is not one."""
    decoder = json.JSONDecoder()
    with reading(path, "fetch it again"), path.open(encoding="utf-8", errors="replace") as file:
        buffer = file.read(CHUNK).lstrip("\ufeff \t\r\n")
        if not buffer.startswith("["):
            raise UserError(f"{path} must hold one JSON list of products")
        position = 1
        while True:
            position = _skip(buffer, position)
            if buffer.startswith("]", position):
                return
            try:
                element, position = decoder.raw_decode(buffer, position)
            except json.JSONDecodeError as error:
                more = file.read(max(CHUNK, len(buffer) - position))
                if not more or len(buffer) - position > MAX_ROW:
                    raise UserError(f"{path} is damaged or cut off ({error}); fetch it again") from error
                buffer, position = buffer[position:] + more, 0
                continue
            yield element


def _skip(buffer: str, position: int) -> int:
    """Past white space and commas."""
    while position < len(buffer) and buffer[position] in " \t\r\n,":
        position += 1
    return position


def _read_object(path: Path) -> Mapping[str, Any]:
    with reading(path, "fetch it again"):
        content = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    if not isinstance(content, Mapping):
        raise UserError(f"{path} must hold one JSON object, keyed by asin")
    return content
