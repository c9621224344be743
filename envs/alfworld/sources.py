"""Official games in a folder, a .zip or a .tar archive, read one game at a time."""

from __future__ import annotations

import logging
import lzma
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path, PurePosixPath

from envs.alfworld.games import GAME_FILE, Game, is_playable, parse_game, split_of
from trajectories.errors import UserError, first_line

logger = logging.getLogger(__name__)

ROOT = "json_2.1.1"
FETCH = "pass the official archive, the folder json_2.1.1 or the one above it, or run `concerto data alfworld`"
OTHER_TYPE = "of another task type, or with a movable receptacle or a sliced object"
NOT_SOLVABLE = "whose file does not say `solvable: true`"


def open_source(path: Path) -> OfficialGames:
    """The games at `path`. Raises UserError if there are none."""
    if not path.exists():
        raise UserError(f"no ALFWorld data at {path}: the path does not exist; {FETCH}")
    source = _open_existing(path)
    if not source.splits():
        raise UserError(f"no ALFWorld games in {path}: no {GAME_FILE} was found below it; {FETCH}")
    return source


def _open_existing(path: Path) -> OfficialGames:
    if path.is_dir():
        return FolderSource(path / ROOT if (path / ROOT).is_dir() else path)
    if zipfile.is_zipfile(path):
        return ZipSource(path)
    return TarSource(path)


class OfficialGames(ABC):
    """Games found by task id; the subclasses know how to list names and read bytes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._playable: dict[str, tuple[str, ...]] = {}

    def splits(self) -> tuple[str, ...]:
        """All splits that have game files, playable or not."""
        return tuple(self._names_by_split)

    def task_ids(self, split: str) -> tuple[str, ...]:
        """Sorted ids of the playable games: reads each file of the split once, for its `solvable` flag."""
        if split not in self._playable:
            named = list(filter(is_playable, self._names_by_split.get(split, ())))
            solvable = self._playable[split] = tuple(task_id for task_id in named if self.read(task_id) is not None)
            if missing := len(named) - len(solvable):
                logger.warning("left out %d of %d games of %s: those %s", missing, len(named), split, NOT_SOLVABLE)
        return self._playable[split]

    def why_empty(self, *splits: str) -> str:
        """How many games of these splits are not playable, and why; reads like `task_ids`."""
        names = [name for split in splits for name in self._names_by_split.get(split, ())]
        named = sum(map(is_playable, names))
        solvable = sum(len(self.task_ids(split)) for split in splits)
        counts = {OTHER_TYPE: len(names) - named, NOT_SOLVABLE: named - solvable}
        left_out = " and ".join(f"{count} {reason}" for reason, count in counts.items() if count)
        return f"left out were games in {self._path}, {left_out}; {FETCH}"

    def read(self, task_id: str) -> Game | None:
        split = split_of(task_id)
        if split is None or task_id not in self._known_ids:
            return None
        return parse_game(task_id, self.content(task_id), f"{self._path}/{task_id}/{GAME_FILE}")

    @cached_property
    def _names_by_split(self) -> dict[str, list[str]]:
        by_split: dict[str, list[str]] = {}
        for task_id in sorted(self._names()):
            by_split.setdefault(split_of(task_id) or "", []).append(task_id)
        return by_split

    @cached_property
    def _known_ids(self) -> frozenset[str]:
        return frozenset(filter(is_playable, self._names()))

    @abstractmethod
    def _names(self) -> Iterable[str]:
        """Task ids of all game files, playable or not."""

    @abstractmethod
    def content(self, task_id: str) -> bytes:
        """The game file of a known task, unchanged."""


class FolderSource(OfficialGames):
    """Games in the official folder layout, `split/game folder/trial folder/game.tw-pddl`."""

    def _names(self) -> Iterable[str]:
        return (file.parent.relative_to(self._path).as_posix() for file in self._path.glob(f"*/*/*/{GAME_FILE}"))

    def content(self, task_id: str) -> bytes:
        try:
            return (self._path / task_id / GAME_FILE).read_bytes()
        except OSError as error:
            raise UserError(f"cannot read the game {task_id} in {self._path} ({error.strerror}); {FETCH}") from error


class ZipSource(OfficialGames):
    """Games in the official .zip, which gives random access."""

    @cached_property
    def _archive(self) -> zipfile.ZipFile:
        """Kept open: its directory of thousands of names is read only once."""
        try:
            return zipfile.ZipFile(self._path)
        except (zipfile.BadZipFile, OSError) as error:
            raise UserError(_damaged(self._path, error)) from error

    @cached_property
    def _members(self) -> dict[str, str]:
        return {task_id: name for name in self._archive.namelist() if (task_id := _task_id(name)) is not None}

    def _names(self) -> Iterable[str]:
        return self._members

    def content(self, task_id: str) -> bytes:
        try:
            return self._archive.read(self._members[task_id])
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise UserError(_damaged(self._path, error)) from error


class TarSource(OfficialGames):
    """Games in a (compressed) .tar: read once, front to back, and kept deflated, about 5 kB a game."""

    @cached_property
    def _deflated(self) -> dict[str, bytes]:
        try:
            with tarfile.open(self._path) as archive:
                return {
                    task_id: zlib.compress(file.read(), 1)
                    for member in archive
                    if (task_id := _task_id(member.name)) is not None and (file := archive.extractfile(member))
                }
        except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError) as error:
            raise UserError(_damaged(self._path, error)) from error

    def _names(self) -> Iterable[str]:
        return self._deflated

    def content(self, task_id: str) -> bytes:
        return zlib.decompress(self._deflated[task_id])


def _task_id(member: str) -> str | None:
    """`[anything/]split/game folder/trial folder/game.tw-pddl` → task id."""
    path = PurePosixPath(member)
    return "/".join(path.parts[-4:-1]) if path.name == GAME_FILE and len(path.parts) >= 4 else None


def _damaged(path: Path, error: Exception) -> str:
    return f"{path} is no readable archive of ALFWorld games ({first_line(error)}); delete it and fetch it again"
