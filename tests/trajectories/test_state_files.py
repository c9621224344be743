from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from trajectories.errors import UserError
from trajectories.state_files import read_state, write_state

PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
KEYS = st.text() | st.integers() | st.tuples(st.text(), st.text())
STATES = st.recursive(PLAIN, lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(KEYS, inner))


@given(STATES)
def test_plain_values_come_back_as_they_were(state: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_state(Path(folder) / "state", state)
        found = read_state(Path(folder) / "state")
    assert found == state and type(found) is type(state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_tensors_and_arrays_come_back_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = torch.arange(6).reshape(2, 3).to(dtype).t()  # not contiguous
    array = np.linspace(0, 1, 5, dtype=np.float64)[::2]
    write_state(tmp_path / "state", {"both": (tensor, [array, array]), "none": torch.zeros(0)})
    found = read_state(tmp_path / "state")
    assert torch.equal(found["both"][0], tensor) and found["both"][0].dtype == dtype
    assert np.array_equal(found["both"][1][1], array) and found["both"][1][1].dtype == array.dtype
    assert found["none"].shape == (0,)


def test_what_has_no_plain_form_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="a state holds a PosixPath"):
        write_state(tmp_path / "state", {"path": Path("x")})


DAMAGED = {
    "empty": b"",
    "torn": b"\x40\x00\x00\x00\x00\x00\x00\x00{",
    "a pickle": b"\x80\x04\x95\x0c\x00\x00\x00\x00\x00\x00\x00\x8c\x08builtins\x94.",
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state").write_bytes(content)
    with pytest.raises(UserError, match=r"cannot read .*: delete the folder of its step"):
        read_state(tmp_path / "state")


@pytest.mark.parametrize("words", ["{", '{"run": "rm"}', '{"tensor": "7"}', '{"dict": [1]}', '{"a": 1, "b": 2}'])
def test_words_that_mean_nothing_are_one_line(tmp_path: Path, words: str) -> None:
    save_file({"0": torch.zeros(1)}, tmp_path / "state", metadata={"state": words})
    with pytest.raises(UserError, match="cannot read"):
        read_state(tmp_path / "state")
    save_file({"0": torch.zeros(1)}, tmp_path / "state", metadata={"other": json.dumps(1)})
    with pytest.raises(UserError, match="cannot read"):
        read_state(tmp_path / "state")
