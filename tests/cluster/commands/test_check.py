"""`concerto check`: the first prompt, and how an answer to it is read."""

from __future__ import annotations

import io
import json
import shutil

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


def test_it_says_where_the_system_message_stands_that_the_template_does_not_take(tiny_model_dir, tmp_path):
    model = shutil.copytree(tiny_model_dir, tmp_path / "model")
    line = "The chat template takes no such system message: the user's first says it"
    assert line not in shown("rollout.prompt.system=Play well.", model=model)
    template = (model / "chat_template.jinja").read_text()
    refusal = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('No system') }}{% endif %}"
    (model / "chat_template.jinja").write_text(refusal + template)
    text = shown("rollout.prompt.system=Play well.", model=model)
    assert line in text and "<|user|>Play well.\n\n" in text
    assert line not in shown(model=model), "there is no message"


def test_quantised_weights_are_refused_where_they_would_be_trained(tiny_model_dir, tmp_path):
    model = shutil.copytree(tiny_model_dir, tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "fp8"}}))
    with pytest.raises(UserError, match="has quantised weights, which can be neither trained nor published"):
        shown(model=model)
    untrained = [
        f"schedule.{name}=0" for name in ("sft_steps", "sft_epochs", "mixed_steps", "grpo_steps", "grpo_epochs")
    ]
    assert "A response ends at" in shown(*untrained, model=model)


def test_an_answer_to_a_template_that_opens_the_reasoning_closes_it(tiny_model_dir, tmp_path):
    model = shutil.copytree(tiny_model_dir, tmp_path / "model")
    template = (model / "chat_template.jinja").read_text()
    (model / "chat_template.jinja").write_text(
        template.replace("<|assistant|>{% endif %}", "<|assistant|><think>{% endif %}")
    )
    text = shown("rollout.prompt.format=tagged", model=model)
    assert "\nI look for what the task needs.</think>\n<action>" in text and "violation (unclosed_tag)" in text


def test_a_prompt_that_leaves_no_room_is_refused():
    with pytest.raises(UserError, match="max_model_len=60 leaves no room for an answer: raise it, or shorten"):
        shown("rollout.engine.max_model_len=60", "rollout.prompt.format=action")
