"""Official games in the user's data folder: copied from an archive or folder, or downloaded.

`concerto data alfworld [--from PATH]` is a thin face of `install` and `download`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from envs.alfworld.games import GAME_FILE
from envs.alfworld.sources import ROOT, open_source
from envs.download import Progress, data_folder, download_file
from trajectories.errors import UserError
from trajectories.files import written_aside

OFFICIAL_ARCHIVE = "https://github.com/alfworld/alfworld/releases/download/0.4.0/json_2.1.2_tw-pddl.zip"
ENVIRONMENT = "alfworld"


@dataclass(frozen=True, slots=True)
class InstallReport:
    """What `install` has put where.

    Attributes:
        folder: the folder above `json_2.1.1`; good for `data=`.
        games: split → playable games.
    """

    folder: Path
    games: Mapping[str, int]


def installed_folder() -> Path | None:
    """The folder above `json_2.1.1` if games were installed, else None."""
    folder = data_folder(ENVIRONMENT)
    return folder if (folder / ROOT).is_dir() else None


def install(source: str | Path, folder: Path | None = None) -> InstallReport:
    """Check every game of an archive or folder and copy them to `folder` (default: the user's data folder).

    Games installed before are replaced, in one move, after all new ones were read and written.

    Raises:
        UserError: no games there, or one of them is damaged; nothing was changed then.
    """
    folder = folder or data_folder(ENVIRONMENT)
    games = open_source(Path(source).expanduser())
    counts = {}
    with written_aside(folder / ROOT) as aside:
        if not any(map(games.task_ids, games.splits())):
            raise UserError(f"no game to install: {games.why_empty(*games.splits())}")
        for split in games.splits():
            task_ids = games.task_ids(split)
            counts[split] = len(task_ids)
            for task_id in task_ids:
                target = aside / task_id / GAME_FILE
                target.parent.mkdir(parents=True)
                target.write_bytes(games.content(task_id))
    return InstallReport(folder, counts)


def download(
    folder: Path | None = None, url: str = OFFICIAL_ARCHIVE, progress: Progress = lambda done, total: None
) -> Path:
    """Fetch the official archive into `folder`; an interrupted download goes on where it stopped.

    Returns:
        The archive, ready for `install`.

    Raises:
        UserError: no network, or the server refuses.
    """
    archive = (folder or data_folder(ENVIRONMENT)) / url.rsplit("/", 1)[-1]
    instead = "fetch it where there is a network, then run `concerto data alfworld --from FILE`"
    download_file(url, archive, instead=instead, progress=progress)
    return archive
