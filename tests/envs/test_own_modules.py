"""Environments of one's own, which are named by their modules."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.config.loading import load_config
from cluster.inputs.run_plan import plan_run
from envs import heldout_panel, load_panel, make_environment, training_panel
from envs.base import Environment
from envs.prompts import instructions
from trajectories.errors import UserError
from trajectories.prompt_settings import PromptSettings

OWN = "examples.own_environment"


def test_a_module_is_an_environment_without_a_line_of_ours() -> None:
    environment, panel = make_environment(OWN), load_panel(f"{OWN}/test")
    assert isinstance(environment, Environment) and panel.environment == OWN and panel.test
    assert environment.reset(panel.task_ids[0]).text.startswith("On the shelf")
    assert (training_panel(OWN).split, heldout_panel(OWN).split) == ("train", "test")


def test_a_run_can_be_planned_on_it_beside_one_of_ours(tmp_path: Path) -> None:
    settings = [f"tasks=[alfworld,{OWN}]", "schedule.demonstrations=4", f"data.{OWN}={tmp_path}"]
    config = load_config("local", None, settings)
    assert config.data == {OWN: str(tmp_path)}
    plan = plan_run(config, tmp_path / "run", resume=False)
    assert plan.environments == ("alfworld", OWN)


def test_its_prompts_lie_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "outside"
    (package / "prompts").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "game.py").touch()
    (package / "prompts" / "action.jinja").write_text("You play {{ environment }}.")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert instructions("outside.game", PromptSettings(format="action")).system == "You play outside.game."


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("examples.nowhere", r"cannot be imported \(ModuleNotFoundError: .*\): install its package, or add its folder"),
        ("examples.own_scalariser", "is no environment: it lacks open_environment and open_tasks"),
        ("shelf", "unknown environment 'shelf'; choose one of alfworld, questions, webshop, or name the module"),
    ],
)
def test_what_is_no_environment_is_told_in_one_line(name: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as told:
        load_panel(f"{name}/test")
    assert "\n" not in str(told.value)


def test_a_module_that_breaks_when_it_is_imported_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "game.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match=r"broken\.game cannot be imported \(ZeroDivisionError: division by zero\)"):
        make_environment("broken.game")
