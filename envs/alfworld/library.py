"""Where games come from: `GameLibrary` finds a game by its task id in the embedded pack and the official data."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from envs.alfworld.games import GENERATED_SPLITS, OFFICIAL_SPLITS, TEST_SPLITS, Game, split_of
from envs.alfworld.install import installed_folder
from envs.alfworld.pack import PackSource
from envs.alfworld.sources import open_source
from trajectories.errors import UserError


class GameSource(Protocol):
    """A place that holds games: a folder, an archive or the embedded pack."""

    def splits(self) -> tuple[str, ...]: ...

    def task_ids(self, split: str) -> tuple[str, ...]: ...

    def why_empty(self, *splits: str) -> str:
        """Why these splits have no game that can be played, and what to do about it."""
        ...

    def read(self, task_id: str) -> Game | None:
        """The game, or None if it is not here."""
        ...


class GameLibrary:
    """All games that an environment can play, found by task id.

    Splits `generated/...` always come from the embedded pack; all others from `data`, or, without it, from the folder
    that `concerto data alfworld` fills.
    """

    train_split, heldout_split = GENERATED_SPLITS
    test_splits = TEST_SPLITS

    def __init__(self, sources: Sequence[GameSource]) -> None:
        self._sources = tuple(sources)

    @classmethod
    def open(cls, data: str | Path | None = None) -> GameLibrary:
        """Open the pack and, beside it, `data`: an official .zip or .tar.* archive, `json_2.1.1` or the folder above.

        Raises:
            UserError: `data` does not exist, or holds no games.
        """
        installed = installed_folder() if data is None else None
        location = Path(data).expanduser() if data is not None else installed
        official = () if location is None else (open_source(location),)
        return cls((PackSource(), *official))

    @classmethod
    def shared(cls, data: str | Path | None = None) -> GameLibrary:
        """As `open`, but one library a process for each place, since environments of one library share its compiled
        games."""
        return _shared(installed_folder() if data is None else Path(data))

    def splits(self) -> tuple[str, ...]:
        """All splits that have games."""
        return tuple(split for source in self._sources for split in source.splits())

    def task_ids(self, split: str) -> tuple[str, ...]:
        """The playable games of a split, sorted: of the six task types, solvable, no movable or sliced targets.

        Raises:
            UserError: the split is not in this library.
        """
        return self._source_of(split).task_ids(split)

    def why_empty(self, split: str) -> str:
        """How many games of the split are not playable, and why."""
        return self._source_of(split).why_empty(split)

    def content_hash(self, task_id: str) -> str:
        """SHA-256 of a game's content. Raises like `read`."""
        return self.read(task_id).content_hash

    def read(self, task_id: str) -> Game:
        """Read one game.

        Raises:
            UserError: no source has it.
            UserError: its file is damaged.
        """
        for source in self._sources:
            game = source.read(task_id)
            if game is not None:
                return game
        split = split_of(task_id)
        if split is None or split not in self.splits():
            raise UserError(f"unknown ALFWorld task {task_id!r}: {self._missing_split(split or task_id)}")
        raise UserError(
            f"unknown ALFWorld task {task_id!r}: not among the games of {split!r}; "
            f"load_panel('alfworld/{split}', data=...) lists the valid ids"
        )

    def _source_of(self, split: str) -> GameSource:
        for source in self._sources:
            if split in source.splits():
                return source
        raise UserError(self._missing_split(split))

    def _missing_split(self, split: str) -> str:
        known = ", ".join(self.splits())
        if split in OFFICIAL_SPLITS:
            return (
                f"no games of split {split!r} here (found: {known}); "
                "pass data= with the official games, or install them with `concerto data alfworld`"
            )
        return f"no split {split!r} (found: {known}); task ids read 'split/game folder/trial folder'"


@lru_cache(maxsize=4)
def _shared(location: Path | None) -> GameLibrary:
    return GameLibrary.open(location)
