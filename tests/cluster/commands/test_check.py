"""`concerto check`: the first prompt, and how an answer to it is read."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from cluster.commands.check import show_check
from cluster.config.loading import load_config
from trajectories.errors import UserError


def shown(*settings: str, preset: str = "local", model: object = "concerto-tiny") -> str:
    output = io.StringIO()
    console = Console(file=output, soft_wrap=True)
    show_check(load_config(preset, None, [f"policy.model={model}", *settings]), console)
    return output.getvalue()


def test_it_shows_the_prompt_a_parsed_answer_and_where_a_response_ends():
    text = shown("rollout.prompt.format=tagged", "rollout.prompt.list_actions=true")
    assert "You play a text game in a household" in text and "Your task is to: " in text
    assert "<action>go to drawer 1</action>\n\nis the action 'go to drawer 1'" in text
    assert "violation (missing_action): it earns format 0" in text
    assert "A response ends at <|end|>, or after 24 tokens." in text


@pytest.mark.parametrize("preset", ["instruct", "gpu", "cluster"])
@pytest.mark.parametrize("tasks", ["alfworld", "webshop"])
def test_presets_for_instruct_models_tell_the_task_and_fit_their_context(preset, tasks, roomy_model_dir):
    text = shown(f"tasks={tasks}", preset=preset, model=roomy_model_dir)
    assert "\nActions:\n" in text and "is the action" in text


def test_the_preset_for_the_embedded_model_tells_nothing():
    assert "rollout.prompt.format is empty: the whole answer is the action." in shown()


def test_a_prompt_that_leaves_no_room_is_refused():
    with pytest.raises(UserError, match="max_model_len=60 leaves no room for an answer: raise it, or shorten"):
        shown("rollout.engine.max_model_len=60", "rollout.prompt.format=action")
