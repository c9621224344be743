"""Files that are not as they were written are found, whichever they are and whatever became of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trajectories.digests import DIGESTS, damage, digests_of, files_without, write_digests


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One with a folder that keeps the digests of its own files."""
    (tmp_path / "inner").mkdir()
    for name in ("a", "b", "inner/c", "inner/d"):
        (tmp_path / name).write_text(f"content of {name}")
    for place in (tmp_path / "inner", tmp_path):
        write_digests(place, digests_of(place, files_without(place)))
    return tmp_path


def test_each_file_is_kept_by_the_folder_that_was_written_first(folder: Path) -> None:
    assert files_without(folder) == [folder / DIGESTS]
    (folder / "new").touch()
    assert files_without(folder) == [folder / DIGESTS, folder / "new"]
    assert damage(folder) is None, "what came later is nobody's business"


@pytest.mark.parametrize("name", ["a", "inner/c", f"inner/{DIGESTS}"])
def test_a_file_that_has_changed_or_gone_is_named(folder: Path, name: str) -> None:
    (folder / name).write_text("{}")
    assert damage(folder) == f"{name} is not as it was written"
    (folder / name).unlink()
    assert damage(folder) == f"{name}: No such file or directory"


@given(st.binary(max_size=60))
def test_no_content_of_a_file_of_digests_is_more_than_damage(tmp_path_factory: pytest.TempPathFactory, content: bytes):
    folder = tmp_path_factory.mktemp("damaged")
    (folder / DIGESTS).write_bytes(content)
    assert damage(folder) in (None, f"{DIGESTS} is not as it was written")
    (folder / DIGESTS).write_text("[" * 100_000)
    assert damage(folder) == f"{DIGESTS} is not as it was written"


def test_a_folder_that_keeps_none_is_sound(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    assert damage(tmp_path) is None
