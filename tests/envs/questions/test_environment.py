"""Asking and answering, the generated questions, and their panels."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs import load_panel, make_environment
from envs.base import Environment
from envs.experts import play_expert
from envs.questions import QuestionEnvironment
from envs.questions.generator import COUNTS, MAKERS
from tests.envs.questions.files import write_lines
from trajectories.errors import UserError

PANEL_HASHES = {
    "test": "2355396154605883b5a51afab6c8435d83a64cbae6c59668d263af67df33c91b",
    "train": "1b8f8e9cb726e2214f2c4192a9f7b7ad9c5de4c2085cb9ca0ca886dde3d71997",
}
CHOICE, OPEN = "generated/test/weekday/0", "generated/test/arithmetic/0"


@pytest.fixture
def environment() -> QuestionEnvironment:
    return make_environment("questions")  # type: ignore[return-value]


def test_is_an_environment_with_the_named_rewards(environment: QuestionEnvironment) -> None:
    assert isinstance(environment, Environment)
    assert environment.reward_names == ("success", "format")
    environment.reset(OPEN)
    assert tuple(environment.step("?").rewards) == environment.reward_names


def test_a_multiple_choice_question(environment: QuestionEnvironment) -> None:
    observation = environment.reset(CHOICE)
    assert observation.text.splitlines()[1:3] == ["A. Monday", "B. Tuesday"]
    assert "Reply with the letter of the right choice" in observation.text
    assert observation.admissible_actions == tuple("ABCDEFG")
    right = environment.step(environment.question.solution)
    assert right.done and right.rewards == {"success": 1.0, "format": 1.0} and right.observation.text == "Right."
    assert right.info["references"] == environment.question.references
    wrong_letter = next(letter for letter in "ABCDEFG" if letter != environment.question.solution)
    environment.reset(CHOICE)
    wrong = environment.step(wrong_letter)
    assert wrong.done and wrong.rewards == {"success": 0.0, "format": 1.0}
    assert wrong.observation.text.endswith(f"{environment.question.solution}. {environment.question.references[0]}")
    environment.reset(CHOICE)
    none = environment.step("It depends.")
    assert none.done and none.rewards == {"success": 0.0, "format": 0.0} and not none.info["action_valid"]
    assert len({step.info["state_hash"] for step in (right, wrong, none)}) == 3


def test_an_open_question(environment: QuestionEnvironment) -> None:
    observation = environment.reset(OPEN)
    assert observation.admissible_actions == () and "Reply with the answer only" in observation.text
    step = environment.step(f"I multiply.\nAnswer: {environment.question.references[0]}.")
    assert step.rewards == {"success": 1.0, "format": 1.0}
    environment.reset(OPEN)
    assert environment.step("  ").rewards == {"success": 0.0, "format": 0.0}


def test_a_question_without_reference_is_only_asked(tmp_path: Path) -> None:
    environment = make_environment("questions", write_lines(tmp_path / "test.jsonl", {"question": "Tell a story."}))
    (_, action, step), *rest = play_expert(environment, "test.jsonl/1")  # type: ignore[arg-type]
    assert (action, rest) == ("", []) and step.rewards == {"success": 0.0, "format": 0.0}
    environment.reset("test.jsonl/1")
    step = environment.step("Once upon a time.")
    assert step.rewards == {"success": 0.0, "format": 1.0} and step.observation.text == "Thank you."


def test_steps_outside_an_episode_are_errors(environment: QuestionEnvironment) -> None:
    with pytest.raises(RuntimeError, match="reset"):
        environment.step("A")
    with pytest.raises(RuntimeError, match="reset"):
        _ = environment.question
    with pytest.raises(UserError):
        environment.reset("generated/test/weekday/20")
    environment.reset(CHOICE)
    environment.step("A")
    with pytest.raises(RuntimeError, match="reset"):
        environment.step("A")


@given(
    st.sampled_from([CHOICE, OPEN]), st.text() | st.sampled_from(["A\ud800", "9" * 5000, "Answer:" * 2000, "*" * 5000])
)
def test_any_response_ends_the_episode_with_a_vector(task_id: str, response: str) -> None:
    environment = make_environment("questions")
    environment.reset(task_id)
    step = environment.step(response)
    assert step.done and set(step.rewards.values()) <= {0.0, 1.0} and 0 <= step.info["state_hash"] < 2**63


@pytest.mark.parametrize("split", sorted(COUNTS))
def test_the_expert_answers_every_generated_question(environment: QuestionEnvironment, split: str) -> None:
    for task_id in load_panel(f"questions/{split}").task_ids:
        ((_, _, step),) = play_expert(environment, task_id, seed=3)
        assert step.rewards == {"success": 1.0, "format": 1.0}, task_id


def test_generated_panels_are_the_same_in_every_process_and_release() -> None:
    assert {split: load_panel(f"questions/{split}").hash for split in COUNTS} == PANEL_HASHES
    code = "from envs import load_panel; print(load_panel('questions/test').hash)"
    other = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    assert other == PANEL_HASHES["test"]


def test_generated_questions_are_asked_once_and_prefixes_mix_the_kinds(environment: QuestionEnvironment) -> None:
    ids = {split: load_panel(f"questions/{split}").task_ids for split in COUNTS}
    assert {split: len(names) for split, names in ids.items()} == {split: count * 6 for split, count in COUNTS.items()}
    assert {task_id.split("/")[2] for task_id in ids["test"][:6]} == set(MAKERS)
    identities = []
    for task_id in (*ids["train"], *ids["test"]):
        environment.reset(task_id)
        identities.append(environment.question.identity)
    assert len(set(identities)) == len(identities)
