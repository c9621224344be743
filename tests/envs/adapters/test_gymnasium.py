"""Environments from outside with Gymnasium's interface, named by their dotted paths."""

from __future__ import annotations

import random
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from cluster.config.loading import load_config
from cluster.inputs.demonstrations import ExpertPlay, Transcriber, load_demonstrations
from cluster.inputs.models import TINY, load_tokenizer, resolve_model
from cluster.inputs.run_plan import plan_run
from cluster.loop.tasks import TaskMixture
from envs import heldout_panel, load_panel, make_environment, training_panel
from envs.adapters.gymnasium import GymnasiumTasks
from envs.base import Environment
from envs.prompts import instructions
from tests.envs.adapters import words
from tests.envs.adapters.words import WordGame
from trajectories.errors import UserError
from trajectories.prompt_settings import PromptSettings

PAGE = Path(__file__).parents[3] / "docs" / "bring-your-own.md"
HERE = "tests.envs.adapters.words"
WORDS = f"{HERE}.WordGame"


def backwards(shown: str) -> str:
    return shown.split()[-2][::-1]


def test_a_class_from_outside_plays_without_a_line_of_ours() -> None:
    environment = make_environment(WORDS)
    assert isinstance(environment, Environment) and environment.reward_names == ("success", "score")
    observation = environment.reset("train/7")
    assert observation == environment.reset("train/7", seed=99), "the task's own seed is the environment's"
    assert observation.admissible_actions == ("give up",)
    wrong = environment.step("no idea")
    assert (dict(wrong.rewards), wrong.done) == ({"success": 0.0, "score": -0.1}, False)
    assert wrong.info["action_valid"] is False and 0 <= wrong.info["state_hash"] < 2**63
    right = environment.step(backwards(observation.text))
    assert right.done and right.rewards["score"] == 1.0


def test_success_wants_the_sum_that_is_asked_for_or_what_info_tells() -> None:
    """A wrong answer and the right one earn 0.9."""
    outcomes = []
    for name in (WORDS, f"{HERE}.five", f"{HERE}.Telling"):
        environment = make_environment(name)
        word = backwards(environment.reset("train/1").text)
        outcomes.append([environment.step(action).rewards["success"] for action in ("x", word)])
    assert outcomes == [[0, 0], [0, 1], [0, 1]]


def test_an_episode_that_is_cut_off_is_done_and_no_success() -> None:
    environment = make_environment(f"{HERE}.five")
    environment.reset("train/1")
    results = [environment.step("x") for _ in range(2)]
    assert [result.done for result in results] == [False, True] and results[1].rewards["success"] == 0.0
    with pytest.raises(RuntimeError, match="reset first"):
        environment.step("x")


def test_no_list_of_actions_is_an_empty_one() -> None:
    assert make_environment(f"{HERE}.Choosy").reset("train/1").admissible_actions == ()


def test_equal_texts_are_equal_states_unless_info_tells() -> None:
    plain, telling = make_environment(WORDS), make_environment(f"{HERE}.Telling")
    plain.reset("train/1"), telling.reset("train/1")
    hashes = [plain.step("x").info["state_hash"]]
    plain.reset("train/1")
    hashes += [plain.step("y").info["state_hash"]]
    plain.reset("train/2")
    hashes += [plain.step("x").info["state_hash"]]
    assert hashes[0] == hashes[1] != hashes[2]
    assert telling.step("x").info["state_hash"] == 7


def test_its_seeds_are_the_tasks_and_a_panel_is_of_what_they_show() -> None:
    train, dev, test = training_panel(WORDS), heldout_panel(WORDS), load_panel(f"{WORDS}/test")
    assert (len(train.task_ids), dev.name, test.test, dev.test) == (1000, f"{WORDS}/dev", True, False)
    seeds = [{task.split("/")[1] for task in panel.task_ids} for panel in (train, dev, test)]
    assert not (seeds[0] & seeds[1] or seeds[0] & seeds[2] or seeds[1] & seeds[2])
    again, longer = GymnasiumTasks(WordGame), GymnasiumTasks(lambda: WordGame(9))
    assert again.content_hash("train/1") == GymnasiumTasks(WordGame).content_hash("train/1")
    assert again.content_hash("train/1") != longer.content_hash("train/1")


def test_a_run_can_be_planned_on_it(tmp_path) -> None:
    config = load_config("local", None, [f"tasks=[alfworld,{HERE}.five]"])
    assert plan_run(config, tmp_path / "run", resume=False).environments == ("alfworld", f"{HERE}.five")


def test_its_prompts_lie_beside_the_module_that_has_it(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "textgames" / "prompts").mkdir(parents=True)
    (tmp_path / "textgames" / "words.py").write_text(f"from {HERE} import WordGame\n")
    (tmp_path / "textgames" / "prompts" / "action.jinja").write_text("You play {{ environment }}.")
    monkeypatch.syspath_prepend(str(tmp_path))
    name = "textgames.words.WordGame"
    assert instructions(name, PromptSettings(format="action")).system == f"You play {name}."
    assert make_environment(name).reset("train/1").text == make_environment(WORDS).reset("train/1").text


def test_without_an_expert_an_sft_stage_is_told_in_one_line(tmp_path) -> None:
    play = ExpertPlay(TaskMixture((training_panel(f"{HERE}.five"),)), load_config("local").opening, 4, 30, 0)
    transcriber = Transcriber(load_tokenizer(resolve_model(TINY)), PromptSettings(), 2048)
    with pytest.raises(UserError, match=r"words.five has no expert to learn from: leave out .*schedule.sft_steps=0"):
        load_demonstrations(tmp_path, play, transcriber, lambda *_: None)


def test_the_line_of_the_page_makes_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "textgames", ModuleType("textgames"))
    monkeypatch.setitem(sys.modules, "textgames.words", words)
    written: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[0], written)
    assert len(written["five"].task_ids("train")) == 500
    assert written["five"].open_environment().reset("dev/500").text.startswith("Say ")


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("Showing", None, "Showing shows a int, no text: wrap it"),
        ("Old", None, r"Old.step gives 4 values, not \(observation, reward, terminated, truncated, info\)"),
        (
            "Shelf",
            None,
            r"Shelf.reset cannot be called with a seed alone \(.*'task_id'\): it has not the interface of Gym",
        ),
        ("NeedsArguments", None, r"NeedsArguments cannot be made \(TypeError: .*length.*name a GymnasiumTasks"),
        ("Silent", None, "Silent.reset gives None as its info: give a dict, empty where there is nothing to tell"),
        ("Listing", None, "Listing tells 'give up' as its admissible_actions: give a list of texts"),
        ("Numbering", None, r"Numbering tells range\(0, 3\) as its admissible_actions: give a list of texts"),
        ("Stingy", None, "Stingy.step gives None as its reward: give a number"),
        ("five", "DIR", "NeedsArguments takes no data, so leave out data"),
        ("Nothing", None, r"words.Nothing cannot be imported \(ModuleNotFoundError"),
        ("backwards", None, r"words.backwards cannot be imported"),
        ("random", None, "is no environment: it lacks open_environment and open_tasks, and is no class with Gymnasium"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(name: str, data: str | None, said: str) -> None:
    with pytest.raises(UserError, match=said) as told:
        environment = make_environment(f"{HERE}.{name}", data)
        environment.reset("train/1")
        environment.step("x")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("task", ["train/5000", "train/x", "dev", "train/-1", "play/1"])
def test_a_task_that_there_is_not_is_told(task: str) -> None:
    with pytest.raises(UserError, match="task ids read like train/0"):
        make_environment(WORDS).reset(task)


@pytest.mark.parametrize(
    ("seeds", "said"),
    [
        ({"train": range(9), "dev": range(8, 12)}, "train and dev of WordGame share the seed 8"),
        ({"train": range(9)}, "the seeds of WordGame lack dev"),
    ],
)
def test_seeds_that_mix_training_and_evaluation_are_refused(seeds, said) -> None:
    with pytest.raises(UserError, match=said):
        GymnasiumTasks(WordGame, seeds)


def test_chance_that_does_not_heed_the_seed_is_the_tasks_all_the_same() -> None:
    """Members of a group would else play different episodes under one name."""
    here, there, other = (make_environment(f"{HERE}.Dice") for _ in range(3))
    for environment, task in ((here, "train/7"), (other, "train/8"), (there, "train/7")):
        environment.reset(task)
    rolled: list[list[str]] = []
    for _ in range(3):
        before = random.getstate()
        rolled.append([environment.step("roll").observation.text for environment in (here, there, other)])
        assert random.getstate() == before, "chance outside is untouched"
    assert all(mine == theirs != others for mine, theirs, others in rolled)
    assert len({mine for mine, *_ in rolled}) == 3, "and goes on"
