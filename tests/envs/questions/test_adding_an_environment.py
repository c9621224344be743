"""The example of docs/adding-an-environment.md runs as it is written there."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path
from types import ModuleType
from unittest import mock

import pytest
from rich.console import Console

import envs
from cluster.commands.play import play_task
from cluster.config.loading import load_config
from cluster.inputs.run_plan import plan_run

PAGE = Path(__file__).resolve().parents[3] / "docs" / "adding-an-environment.md"


def test_the_documented_environment_passes_its_documented_tests(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module_code, test_code = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    line = re.search(r'```text\n\s*"(\w+)": "([\w.]+)",\n```', PAGE.read_text(encoding="utf-8"))
    assert line is not None
    name, module_name = line.groups()
    module = ModuleType(module_name)
    monkeypatch.setitem(sys.modules, module_name, module)
    monkeypatch.setitem(envs.ENVIRONMENTS, name, module_name)
    exec(compile(module_code, f"{PAGE.name}, the module", "exec"), vars(module))
    tests: dict[str, object] = {}
    exec(compile(test_code, f"{PAGE.name}, the test", "exec"), tests)
    documented = [test for title, test in tests.items() if title.startswith("test_") and callable(test)]
    assert len(documented) == 2
    for test in documented:
        test()
    can_be_trained_and_played(name, tmp_path)


def can_be_trained_and_played(name: str, tmp_path: Path) -> None:
    config = load_config("local", overrides=[f"tasks=[alfworld,{name}]", "schedule.demonstrations=4"])
    plan = plan_run(config, tmp_path, resume=False)
    assert [panel.name for panel in plan.tasks.panels] == ["alfworld/generated/train", f"{name}/train"]
    assert [panel.name for panel in plan.eval_panels] == ["alfworld/generated/heldout", f"{name}/test"]
    assert plan.environments == ("alfworld", name)
    console = Console(file=io.StringIO())
    with mock.patch.object(Console, "input", side_effect=["5"]):
        play_task(config, name, "test/5", console)
    assert isinstance(console.file, io.StringIO) and "Solved. 1 actions." in console.file.getvalue()
