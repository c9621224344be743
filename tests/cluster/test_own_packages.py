"""A user's own folder with the name of one of Concerto's packages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.runs import REPO

SAID = "concerto: {} has the name of a package of Concerto, which goes before it\n"


def concerto(path: Path) -> subprocess.CompletedProcess[str]:
    """`concerto tasks`, as the installed script starts it, with this folder on PYTHONPATH before Concerto's own."""
    command = [sys.executable, "-c", "from cluster.__main__ import main; main()", "tasks", "questions/train"]
    environment = os.environ | {"PYTHONPATH": f"{path}{os.pathsep}{REPO}", "PYTHONSAFEPATH": "1"}
    return subprocess.run(command, env=environment, cwd=path, capture_output=True, text=True, timeout=100)


@pytest.mark.parametrize("name", ["envs", "trajectories"])
def test_ours_goes_before_it_and_one_line_says_so(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("raise RuntimeError('the wrong package')\n")
    result = concerto(tmp_path)
    assert (result.returncode, result.stderr) == (0, SAID.format(tmp_path / name))
    assert result.stdout.splitlines()


def test_without_one_nothing_is_said(tmp_path):
    result = concerto(tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
