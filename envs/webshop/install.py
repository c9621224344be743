"""The original's files in the user's data folder: copied from another folder, or downloaded.

Once installed they are what `data=None` means; `data="generated"` still plays the generated catalogue.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from envs.download import data_folder, download_file
from envs.webshop.catalogue import open_catalogue
from envs.webshop.sources import ENVIRONMENT, INSTALLED, find_files
from trajectories.errors import UserError
from trajectories.files import in_words, written_aside

CatalogueSize = Literal["1000", "full"]
CANONICAL_CONTENT_HASH = "3d626bca60257de0570e47d6065edf6f152fc653782595bca048de5e3fab3cca"
"""`Manifest.content_hash` of the original's 1,000 products with the prices that are drawn for them here."""
DOWNLOAD_URL = "https://drive.usercontent.google.com/download?id={}&export=download&confirm=t"
_HUMAN = {"items_human_ins.json": "14Kb5SPBk_jfdLZ_CDBNitW98QLDlKR5O"}
OFFICIAL_FILES: dict[CatalogueSize, dict[str, str]] = {
    "1000": {
        "items_shuffle_1000.json": "1EgHdxQ_YxqIQlvvq5iKlCrkEKR6-j0Ib",
        "items_ins_v2_1000.json": "1IduG0xl544V_A_jv3tHXC0kyFi7PnyBu",
        **_HUMAN,
    },
    "full": {
        "items_shuffle.json": "1A2whVgOO0euk5O13n2iYDM0bQRkkRduB",
        "items_ins_v2.json": "1s2j6NgHljiZzQNL3veZaAiyW_qDEgBNi",
        **_HUMAN,
    },
}
"""File name → its id where the authors publish it (the `setup.sh` of princeton-nlp/WebShop)."""
SHA256 = {"items_ins_v2_1000.json": "f88a36314a397b53b3d9c3fa5878e5f7b26d35019a51ec83fbedeca61a948f6f"}
"""Of those official files that were at hand as the authors published them. The 1,000 products are recognised by
`CANONICAL_CONTENT_HASH` once they are installed; of the full catalogue no hash is known."""


@dataclass(frozen=True, slots=True)
class InstallReport:
    """What `install` has put where, and whether it is the original's 1,000 products exactly."""

    folder: Path
    products: int
    goals: int
    refused: int
    canonical: bool


def install(source: str | Path, folder: Path | None = None) -> InstallReport:
    """Build the catalogue of the files in `source` and copy them to `folder` (default: the user's data folder).

    Files installed before are replaced in one move, after the new ones have proved readable.

    Raises:
        UserError: no catalogue there, or it cannot be read; nothing was changed then.
    """
    folder = folder or data_folder(ENVIRONMENT)
    files = find_files(Path(source).expanduser())
    target = folder / INSTALLED
    with written_aside(target) as aside:
        aside.mkdir()
        for path in files.paths():
            try:
                shutil.copy2(path, aside / path.name)
            except OSError as error:  # does not tell which of the two is at fault
                raise UserError(
                    f"cannot copy {path} to {target} ({in_words(error)}); mend the disk, and give the command again"
                ) from error
        try:
            open_catalogue(aside)
        except UserError as error:  # names the copy, which is gone when this is read
            raise UserError(str(error).replace(str(aside), str(files.products.parent))) from error
    catalogue = open_catalogue(target)
    return InstallReport(
        folder=target,
        products=len(catalogue),
        goals=catalogue.goal_count("synthetic"),
        refused=catalogue.manifest.refused,
        canonical=catalogue.manifest.content_hash == CANONICAL_CONTENT_HASH,
    )


def download(
    size: CatalogueSize = "1000",
    folder: Path | None = None,
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> Path:
    """Fetch the authors' files; an interrupted download goes on where it stopped.

    Args:
        progress: called with (file name, bytes so far, bytes in all; 0 if unknown).

    Returns:
        The folder with the files, ready for `install`.

    Raises:
        UserError: no network, the server refuses, or a file is not the one that was published.
    """
    folder = (folder or data_folder(ENVIRONMENT)) / f"download-{size}"
    instead = "fetch the files where there is a network, then run `concerto data webshop --from DIR`"
    for name, identity in OFFICIAL_FILES[size].items():
        download_file(
            DOWNLOAD_URL.format(identity),
            folder / name,
            instead=instead,
            sha256=SHA256.get(name),
            progress=lambda done, total, name=name: progress(name, done, total),
        )
    return folder
