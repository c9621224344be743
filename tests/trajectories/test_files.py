"""Written aside, then renamed: complete under its name or not there at all."""

import pytest

from trajectories.files import written_aside


def test_a_file_has_its_name_only_when_it_is_complete(tmp_path):
    target = tmp_path / "new" / "file.txt"
    with written_aside(target) as aside:
        aside.write_text("all")
        assert not target.exists()
    assert target.read_text() == "all"
    assert list(target.parent.iterdir()) == [target]


def test_a_folder_replaces_the_one_before(tmp_path):
    target = tmp_path / "folder"
    for text in ("old", "new"):
        with written_aside(target) as aside:
            aside.mkdir()
            (aside / text).touch()
    assert [path.name for path in target.iterdir()] == ["new"]


def test_what_fails_leaves_the_old_and_nothing_beside_it(tmp_path):
    target = tmp_path / "file.txt"
    target.write_text("old")
    with pytest.raises(OSError, match="disk"), written_aside(target) as aside:
        aside.write_text("half")
        raise OSError("disk full")
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]


def test_what_a_killed_writer_left_is_overwritten(tmp_path):
    target = tmp_path / "folder"
    leftover = tmp_path / ".folder.part"
    leftover.mkdir()
    (leftover / "half").touch()
    with written_aside(target) as aside:
        aside.mkdir()
    assert list(target.iterdir()) == [] and not leftover.exists()
