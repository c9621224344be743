"""Templates: every format of every environment is told completely, and the example in it is an answer in the format."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import envs
from envs import make_environment, training_panel
from envs.prompts import instructions
from trajectories.answers import as_admissible, read_answer
from trajectories.errors import UserError
from trajectories.prompt_settings import Instructions, PromptSettings

TEMPLATES = sorted(Path(envs.__file__).parent.glob("*/prompts/*.jinja"))
FILES = [(path.parts[-3], path.stem) for path in TEMPLATES]


def told(environment: str, **prompt: object) -> str:
    return instructions(environment, PromptSettings.model_validate(prompt)).system


def test_the_formats_that_each_environment_has() -> None:
    both = {"action", "react", "tagged"}
    found = {name: {stem for place, stem in FILES if place == name} for name in envs.ENVIRONMENTS}
    assert found == {"alfworld": both, "webshop": both, "questions": {"action", "tagged"}}
    patterns = tomllib.loads(Path(envs.__file__).parents[1].joinpath("pyproject.toml").read_text())
    assert "*.jinja" in patterns["tool"]["setuptools"]["package-data"]["*"]


@pytest.mark.parametrize(("environment", "format"), [file for file in FILES if file[1] != "action"])
def test_the_worked_example_is_an_answer_in_the_format(environment: str, format: str) -> None:
    plain, shown = told(environment, format=format), told(environment, format=format, few_shot=True)
    assert shown.startswith(plain) and not plain.endswith("\n")
    example = shown.removeprefix(plain).partition(":\n")[2]
    answer = read_answer(format, example)
    expected = {"alfworld": "take mug 1 from sinkbasin 1", "webshop": "click[red]", "questions": "B"}
    assert answer.action == expected[environment]


def test_what_the_template_of_alfworld_names_are_the_actions_that_its_games_accept() -> None:
    """Every kind of action that any of some games accepts, but for `help`, is in the prompt."""
    kinds = {
        line.split()[0]
        for line in told("alfworld", format="action").split("Actions:\n")[1].split("\n\n")[0].split("\n")
    }
    player, panel = make_environment("alfworld"), training_panel("alfworld")
    for task in panel.task_ids[::400]:
        observation = player.reset(task)
        assert {action.split()[0] for action in observation.admissible_actions} - {"help"} <= kinds


def test_no_format_tells_nothing() -> None:
    assert instructions("alfworld", PromptSettings()) == Instructions()


def test_a_message_of_ones_own_stands_in_place_of_the_template(tmp_path: Path) -> None:
    assert told("alfworld", format="react", system="Play.") == "Play."
    (tmp_path / "own.jinja").write_text("Play {{ environment }}{% if few_shot %}!{% endif %}\n")
    assert told("webshop", format="react", template=str(tmp_path / "own.jinja"), few_shot=True) == "Play webshop!"
    assert told("webshop", template=str(tmp_path / "own.jinja")) == "Play webshop"


def test_what_cannot_be_told_is_one_line_that_names_the_fix(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"questions has no prompt .*format=react: choose one of action, tagged"):
        told("questions", format="react")
    with pytest.raises(UserError, match=r"guess has no prompt .*: write prompts/react\.jinja beside the environment"):
        told("guess", format="react")
    with pytest.raises(UserError, match=r"cannot read the prompt template .*none\.jinja .*: check its path"):
        told("alfworld", template=str(tmp_path / "none.jinja"))
    for text in ("{% if %}", "{{ task }}"):
        (tmp_path / "bad.jinja").write_text(text)
        with pytest.raises(UserError, match=r"bad\.jinja cannot be rendered .*: mend it"):
            told("alfworld", template=str(tmp_path / "bad.jinja"))
    with pytest.raises(ValueError, match="system and template are both set"):
        PromptSettings(system="Play.", template="own.jinja")


@pytest.mark.parametrize("old", ["put {} in/on {}", "put {} in {}", "Put {} on {}", "place {} into {}"])
def test_alfworlds_old_words_are_taken_where_a_format_is_set(old: str) -> None:
    admissible = ("move mug 1 to desk 1", "look")
    action = old.format("mug 1", "desk 1")
    set_, unset = (instructions("alfworld", PromptSettings.model_validate({"format": name})) for name in ("react", ""))
    assert as_admissible(action, admissible, set_.aliases) == "move mug 1 to desk 1"
    assert as_admissible(action, admissible, unset.aliases) == action
    assert not re.search(r"\bput\b", set_.system)


@pytest.mark.parametrize("said", ["move mug 1 to desk 1", "put mug 1 on desk 1", "Put mug 1 in/on desk 1"])
def test_games_from_before_alfworld_0_4_take_the_words_of_the_prompt(said: str) -> None:
    aliases = instructions("alfworld", PromptSettings(format="react")).aliases
    assert as_admissible(said, ("put mug 1 in/on desk 1", "look"), aliases) == "put mug 1 in/on desk 1"
