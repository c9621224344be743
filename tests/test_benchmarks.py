"""Benchmarks are run by hand: here only that they still fit the code."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
import yaml

from cluster.config.loading import load_config
from cluster.config.matrix import load_matrix

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_configuration_fits(file: Path) -> None:
    if "arms" in yaml.safe_load(file.read_text()):
        assert load_matrix(file).runs()
    else:
        load_config("gpu", file, ["policy.model=somewhere"])


@pytest.mark.parametrize("module", sorted(file.stem for file in FOLDER.glob("*.py") if file.stem != "__init__"))
def test_every_module_imports(module: str) -> None:
    assert import_module(f"benchmarks.{module}").__doc__
