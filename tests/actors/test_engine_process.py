"""Private directories of child processes."""

import errno
import json
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from actors import engine_process
from actors.engine import EngineError
from actors.engine_process import private_directory, write_adapter


def test_a_directory_left_behind_is_removed_by_the_next_one_in_use_stay():
    used, used_lock = private_directory()
    left, left_lock = private_directory()
    left_lock.close()  # as if its process had ended
    mine, mine_lock = private_directory()
    assert used.exists() and mine.exists() and not left.exists()
    for directory, lock in ((used, used_lock), (mine, mine_lock)):
        lock.close()
        shutil.rmtree(directory)


@pytest.mark.parametrize(("free", "shared"), [(64 * 2**20, False), (2**32, True)])
def test_shared_memory_as_small_as_a_containers_is_left_alone(
    free: int, shared: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container has 64 MiB of it unless it was told otherwise: less than an adapter."""
    monkeypatch.setattr(engine_process, "SHARED", tmp_path / "shm")
    (tmp_path / "shm").mkdir()
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    directory, lock = private_directory()
    assert directory.parent == (tmp_path / "shm" if shared else Path(tempfile.gettempdir()))
    lock.close()
    shutil.rmtree(directory)


def test_an_adapter_is_written_as_peft_reads_it(tmp_path: Path) -> None:
    write_adapter(tmp_path / "policy-1", b"weights", {"r": 4})
    assert (tmp_path / "policy-1" / "adapter_model.safetensors").read_bytes() == b"weights"
    assert json.loads((tmp_path / "policy-1" / "adapter_config.json").read_text()) == {"r": 4}


def test_an_adapter_for_which_there_is_no_room_is_an_error_of_the_engine_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    (tmp_path / "engine").mkdir()
    with pytest.raises(EngineError, match=r"adapter of 3 MiB cannot be written below .* \(No space left on device\)"):
        write_adapter(tmp_path / "engine" / "policy-1", bytes(3 * 2**20), {})
    assert list((tmp_path / "engine").iterdir()) == []
