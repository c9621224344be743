"""Games are found by id in folders, archives and the embedded pack; damaged data are refused in one clear line."""

from __future__ import annotations

import json
import logging
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest

from envs import load_panel
from envs.alfworld.games import TASK_TYPES, is_playable, parse_game, player_walkthrough
from envs.alfworld.install import install
from envs.alfworld.library import GameLibrary
from tests.data import ALFWORLD_MINI, require
from trajectories.errors import UserError

CONTENT = {"pddl_domain": "d", "pddl_problem": "p", "grammar": "g", "solvable": True, "walkthrough": None}
TASK = "train/pick_and_place_simple-Mug-None-Desk-301/trial_1"


def write_games(root: Path, *task_ids: str, **changes: object) -> Path:
    for task_id in task_ids:
        file = root / "json_2.1.1" / task_id / "game.tw-pddl"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(CONTENT | changes))
    return root


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder above json_2.1.1."""
    folder = tmp_path_factory.mktemp("mini")
    with tarfile.open(require(ALFWORLD_MINI)) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def mini_zip(mini: Path) -> Path:
    return Path(shutil.make_archive(str(mini.parent / "mini"), "zip", mini))


def test_archive_zip_and_folders_give_the_same_games(mini: Path, mini_zip: Path) -> None:
    for split in ("train", "valid_seen", "valid_unseen"):
        places = (ALFWORLD_MINI, mini_zip, mini, mini / "json_2.1.1")
        libraries = [GameLibrary.open(place) for place in places]
        ids = libraries[0].task_ids(split)
        assert len(ids) == 12 and ids == tuple(sorted(ids))
        assert {library.read(ids[0]).content_hash for library in libraries} == {libraries[0].content_hash(ids[0])}
        assert all(library.task_ids(split) == ids for library in libraries)


def test_all_six_task_types_are_read(mini: Path) -> None:
    library = GameLibrary.open(mini)
    assert {library.read(task_id).task_type for task_id in library.task_ids("valid_unseen")} == set(TASK_TYPES)


def test_walkthroughs_speak_the_players_words(mini: Path) -> None:
    library = GameLibrary.open(mini)
    for split in ("valid_seen", "valid_unseen"):
        for task_id in library.task_ids(split):
            walkthrough = library.read(task_id).walkthrough
            assert walkthrough and not any("_bar_" in command or " in/on " in command for command in walkthrough)


def test_raw_ids_are_numbered_downwards_as_by_the_demangler() -> None:
    problem = "(:init (inReceptacle Mug_bar_1 Sink_bar_2_bar_SinkBasin) (inReceptacle Mug_bar_3 Desk_bar_4) )"
    raw = ["take mug_bar_1 from sink_bar_2_bar_sinkbasin", "put mug_bar_1 in/on desk_bar_4"]
    assert player_walkthrough(raw, problem) == ("take mug 2 from sinkbasin 1", "move mug 2 to desk 1")


def test_unsolvable_movable_and_sliced_games_are_left_out(tmp_path: Path) -> None:
    write_games(tmp_path, TASK)
    write_games(tmp_path, "train/pick_and_place_simple-Mug-None-Desk-301/trial_2", solvable=False)
    write_games(tmp_path, "train/pick_and_place_with_movable_recep-Pen-Bowl-Desk-301/trial_3")
    write_games(tmp_path, "train/pick_heat_then_place_in_recep-AppleSliced-None-Fridge-1/trial_4")
    assert GameLibrary.open(tmp_path).task_ids("train") == (TASK,)
    assert not is_playable("train/pick_and_place_with_movable_recep-Pen-Bowl-Desk-301/trial_3")


def test_a_game_that_does_not_say_that_it_is_solvable_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_games(tmp_path, TASK)
    file = write_games(tmp_path, f"{TASK}0") / "json_2.1.1" / f"{TASK}0" / "game.tw-pddl"
    file.write_text(json.dumps({key: value for key, value in CONTENT.items() if key != "solvable"}))
    with caplog.at_level(logging.WARNING):
        assert load_panel("alfworld/train", tmp_path).task_ids == (TASK,)
    assert "left out 1 of 2 games of train: those whose file does not say `solvable: true`" in caplog.text


def test_a_split_without_a_playable_game_is_refused_with_counts(tmp_path: Path) -> None:
    write_games(tmp_path, TASK, f"{TASK}0", solvable=None)
    write_games(tmp_path, "train/pick_and_place_with_movable_recep-Pen-Bowl-Desk-301/trial_3")
    message = (
        "left out were games in .*, 1 of another task type, or with a movable receptacle or a sliced object and 2 "
        "whose file does not say `solvable: true`; pass the official archive"
    )
    with pytest.raises(UserError, match=f"^alfworld/train has no tasks: {message}"):
        load_panel("alfworld/train", tmp_path)
    with pytest.raises(UserError, match=f"^no game to install: {message}"):
        install(tmp_path, tmp_path / "installed")
    assert not (tmp_path / "installed" / "json_2.1.1").exists()


def one_line(error: pytest.ExceptionInfo[UserError], *parts: str) -> None:
    message = str(error.value)
    assert "\n" not in message
    assert all(part in message for part in parts), message


def test_a_missing_path_names_the_fix(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        GameLibrary.open(tmp_path / "nowhere")
    one_line(error, "nowhere", "does not exist", "concerto data alfworld")


def test_a_folder_without_games_names_the_fix(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        GameLibrary.open(tmp_path)
    one_line(error, str(tmp_path), "json_2.1.1")


@pytest.mark.parametrize("name", ["games.tar.xz", "games.zip", "games.tar.gz"])
def test_a_truncated_archive_is_named(tmp_path: Path, name: str) -> None:
    write_games(tmp_path / "data", TASK)
    archive = tmp_path / name
    if name.endswith("zip"):
        with zipfile.ZipFile(archive, "w") as file:
            file.write(tmp_path / "data" / "json_2.1.1" / TASK / "game.tw-pddl", f"json_2.1.1/{TASK}/game.tw-pddl")
    else:
        with tarfile.open(archive, "w:xz" if name.endswith("xz") else "w:gz") as file:
            file.add(tmp_path / "data" / "json_2.1.1", "json_2.1.1")
    assert GameLibrary.open(archive).task_ids("train") == (TASK,)
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    with pytest.raises(UserError) as error:
        GameLibrary.open(archive).read(TASK)
    one_line(error, name)


@pytest.mark.parametrize("content", ["{", "[]", '{"solvable": true}'])
def test_a_damaged_game_file_is_named(tmp_path: Path, content: str) -> None:
    write_games(tmp_path, TASK)
    (tmp_path / "json_2.1.1" / TASK / "game.tw-pddl").write_text(content)
    with pytest.raises(UserError) as error:
        GameLibrary.open(tmp_path).read(TASK)
    one_line(error, f"{TASK}/game.tw-pddl")


def test_an_unknown_task_is_told_from_a_missing_split(tmp_path: Path) -> None:
    library = GameLibrary.open(write_games(tmp_path, TASK))
    with pytest.raises(UserError, match="not among the games of 'train'"):
        library.read("train/pick_and_place_simple-Mug-None-Desk-301/trial_9")
    with pytest.raises(UserError, match="pass data="):
        library.read("valid_seen/pick_and_place_simple-Mug-None-Desk-301/trial_1")
    with pytest.raises(UserError, match="split/game folder/trial folder"):
        library.read("nonsense")
    with pytest.raises(UserError, match="concerto data alfworld"):
        library.task_ids("valid_seen")


def test_parse_game_keeps_what_plays() -> None:
    game = parse_game(TASK, json.dumps(CONTENT), "file")
    assert game is not None and (game.domain, game.problem, game.grammar) == ("d", "p", "g")
    assert game.task_type == "pick_and_place_simple" and game.walkthrough is None
