"""The embedded pack: what the generator makes, with plans that win."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from envs import load_panel, make_environment
from envs.alfworld.library import GameLibrary
from envs.alfworld.pack import PACK_FILE, PackSource, write_pack
from trajectories.errors import UserError


@pytest.mark.parametrize(("split", "count"), [("train", 2000), ("heldout", 200)])
def test_the_recorded_plans_win(split: str, count: int) -> None:
    library, environment = GameLibrary.open(), make_environment("alfworld")
    task_ids = load_panel(f"alfworld/generated/{split}").task_ids
    assert len(task_ids) == count
    for task_id in task_ids[:: count // 20]:
        environment.reset(task_id)
        results = [environment.step(command) for command in library.read(task_id).walkthrough or ()]
        assert results[-1].rewards["success"] == 1.0, task_id


@pytest.mark.skipif(find_spec("alfworld") is None, reason="needs the tables of the alfworld wheel")
def test_the_generator_still_makes_the_packed_games() -> None:
    from envs.alfworld.build_pack import FIRST_HELDOUT_SEED, proven_games
    from envs.alfworld.scenes import load_tables

    tables, library = load_tables(), GameLibrary.open()
    for split, seed, scenes in (
        ("generated/train", 0, tables.train_scenes),
        ("generated/heldout", FIRST_HELDOUT_SEED, tables.heldout_scenes),
    ):
        games = list(proven_games(split, 8, seed, scenes))
        assert games == [library.read(task_id) for task_id in library.task_ids(split)[:8]]


def test_what_is_written_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    games = [PackSource().read(task_id) for task_id in PackSource().task_ids("generated/heldout")[:3]]
    pairs = [(game, f"task {index}") for index, game in enumerate(games) if game is not None]
    write_pack(tmp_path / "pack.xz", pairs[0][0].domain, "say UNKNOWN GOAL", pairs)
    monkeypatch.setattr("envs.alfworld.pack.PACK_FILE", tmp_path / "pack.xz")
    source = PackSource()
    assert source.task_ids("generated/heldout") == tuple(game.task_id for game, _ in pairs)
    for game, sentence in pairs:
        read = source.read(game.task_id)
        assert read is not None and read.grammar == f"say {sentence}"
        assert (read.problem, read.walkthrough, read.task_type) == (game.problem, game.walkthrough, game.task_type)


def test_a_damaged_pack_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pack.xz").write_bytes(PACK_FILE.read_bytes()[:5000])
    monkeypatch.setattr("envs.alfworld.pack.PACK_FILE", tmp_path / "pack.xz")
    with pytest.raises(UserError, match="reinstall concerto"):
        PackSource().task_ids("generated/train")
