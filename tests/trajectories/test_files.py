"""Files: complete under their name or not there at all; one line where a disk does not let them be."""

import errno
import json
import os
import shutil
import tempfile
from collections import namedtuple
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trajectories.errors import StorageError, UserError
from trajectories.files import check_file, check_folder, read_lines, reading, storing, written_aside

Usage = namedtuple("Usage", "total used free")


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


def test_a_full_disk_is_named_with_the_file(tmp_path):
    full = Path("/dev/full")
    with (
        pytest.raises(StorageError, match=r"cannot write .*out\.json \(.*[Nn]o space left"),
        storing(tmp_path / "out.json"),
    ):
        full.write_text("some")


def test_an_error_of_a_library_counts_as_the_disk_s_only_while_the_disk_is_full(tmp_path, monkeypatch):
    def fail():
        with written_aside(tmp_path / "model") as aside:
            aside.mkdir()
            raise RuntimeError("unexpected pos 64 vs 0")

    with pytest.raises(RuntimeError, match="unexpected pos"):
        fail()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(9, 9, 0))
    with pytest.raises(StorageError, match=r"cannot write .*model .no room is left on the disk"):
        fail()
    assert not list(tmp_path.iterdir())


def test_the_system_s_words_in_an_error_of_a_library_name_the_disk_s_fault(tmp_path):
    with (
        pytest.raises(StorageError, match=r"cannot write .*model .No space left on device"),
        storing(tmp_path / "model"),
    ):
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")


def test_an_error_about_another_file_is_not_blamed_on_what_is_written(tmp_path):
    for number in (errno.EACCES, errno.EROFS):
        with pytest.raises(OSError, match=r"/elsewhere/source"), storing(tmp_path / "new" / "copy"):
            raise OSError(number, os.strerror(number), "/elsewhere/source")
    for named in (tmp_path, tmp_path / "new" / ".copy.part"):
        with pytest.raises(StorageError, match=r"copy .Permission denied"), storing(tmp_path / "new" / "copy"):
            raise PermissionError(errno.EACCES, "Permission denied", str(named))


def test_what_can_be_written_is_found_out_without_a_trace(tmp_path):
    check_file(tmp_path / "new" / "deeper" / "out.json")
    check_folder(tmp_path / "new")
    check_folder(tmp_path)
    assert not list(tmp_path.iterdir())


def test_neither_a_file_nor_a_folder_takes_the_other_s_place(tmp_path):
    folder, file = tmp_path / "folder", tmp_path / "file"
    (folder / "mine").mkdir(parents=True)
    file.touch()
    with pytest.raises(UserError, match=r"folder is a folder: name a file with --out"):
        check_file(folder)
    with pytest.raises(UserError, match=r"folder is a folder"), written_aside(folder) as aside:
        aside.touch()
    with pytest.raises(UserError, match=r"file is a file: name a folder with --out"):
        check_folder(file)
    assert sorted(tmp_path.rglob("*")) == [file, folder, folder / "mine"]


def test_what_cannot_be_written_is_refused_with_the_reason(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*out.json .Not a directory.: name another --out"):
        check_file(tmp_path / "file" / "out.json")
    with pytest.raises(UserError, match=r"file exists: remove it, or name another --out"):
        check_file(tmp_path / "file")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(9, 9, 3 * 2**20))
    check_folder(tmp_path / "out.json", 3 * 2**20)
    with pytest.raises(UserError, match=r"no room for .*out.json: 3 MiB are free and 4 MiB are the least"):
        check_folder(tmp_path / "out.json", 4 * 2**20)

    def refuse(*args, **options):
        raise OSError(errno.EROFS, "Read-only file system", "/somewhere/.concerto-x")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with pytest.raises(UserError, match=r"cannot write .*out.json .Read-only file system.: name another"):
        check_file(tmp_path / "out.json")


@pytest.mark.parametrize("content", [b"{", b"\xff"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, content):
    path = tmp_path / "job.json"
    with (
        pytest.raises(UserError, match=r"cannot read .*job.json .No such file.*: remove it"),
        reading(path, "remove it"),
    ):
        path.read_text()
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"cannot read .*job.json .*: remove it"), reading(path, "remove it"):
        json.loads(path.read_text())


RECORDS = [{"step": step, "loss": step / 3} for step in range(4)]
LINES = [json.dumps(record) for record in RECORDS]


@given(st.integers(0, len("\n".join(LINES)) + 1))
def test_lines_are_whole_wherever_the_file_was_cut(length):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lines.jsonl"
        path.write_text("".join(line + "\n" for line in LINES)[:length])
        records, torn = read_lines(path)
        ends = [sum(len(line) + 1 for line in LINES[:count]) for count in range(len(LINES) + 1)]
    assert records == RECORDS[: sum(end - 1 <= length for end in ends[1:])]
    assert torn is not any(length in (end, end - 1) for end in ends)


def test_a_damaged_line_before_the_last_is_named(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text("\n".join([LINES[0], LINES[1][:-3], LINES[2]]))
    with pytest.raises(UserError, match=r"cannot read line 2 of .*lines.jsonl .*: remove that line"):
        read_lines(path)
