"""Panels: ordered, hashed by content, equal in every process."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

import pytest

from envs import load_panel, make_environment
from envs.alfworld.environment import open_tasks
from envs.panels import make_panel
from trajectories.errors import UserError


@dataclass(frozen=True)
class Tasks:
    contents: tuple[tuple[str, str], ...]
    train_split: str = "train"
    heldout_split: str = "test"
    test_splits: tuple[str, ...] = ("test",)

    def task_ids(self, split: str) -> tuple[str, ...]:
        return tuple(name for name, _ in self.contents)

    def content_hash(self, task_id: str) -> str:
        return dict(self.contents)[task_id]


BASE = Tasks((("a", "1"), ("b", "2")))


@pytest.mark.parametrize(
    ("environment", "split", "tasks"),
    [
        ("other", "test", BASE),
        ("env", "train", BASE),
        ("env", "test", Tasks((("b", "2"), ("a", "1")))),
        ("env", "test", Tasks((("a", "1"), ("b", "3")))),
        ("env", "test", Tasks((("a", "1"),))),
    ],
)
def test_the_hash_covers_name_split_order_and_content(environment: str, split: str, tasks: Tasks) -> None:
    panel = make_panel("env", "test", BASE, {})
    assert panel.name == "env/test" and panel.task_ids == ("a", "b")
    assert make_panel(environment, split, tasks, {}).hash != panel.hash
    assert make_panel("env", "test", BASE, {}) == panel


def test_an_empty_split_is_refused_with_its_reason_where_the_source_knows_it() -> None:
    with pytest.raises(UserError, match=r"^env/test has no tasks: name another panel, or other data with data\.env="):
        make_panel("env", "test", Tasks(()))

    class Explained(Tasks):
        def why_empty(self, split: str) -> str:
            return f"three of {split} were left out; mend them"

    with pytest.raises(UserError, match=r"^env/test has no tasks: three of test were left out; mend them$"):
        make_panel("env", "test", Explained(()))


def test_a_panel_tells_whether_results_are_reported_on_it() -> None:
    assert make_panel("env", "test", BASE).test and not make_panel("env", "train", BASE).test
    panels = {f"webshop/{split}": split != "train" for split in ("train", "dev", "test")}
    panels |= {"alfworld/generated/heldout": False, "questions/test": True, "questions/train": False}
    assert {name: load_panel(name).test for name in panels} == panels
    assert set(open_tasks().test_splits) == {"valid_seen", "valid_unseen"}


def test_generated_panels_are_the_same_in_every_process() -> None:
    code = "from envs import load_panel; print(load_panel('alfworld/generated/heldout').hash)"
    other = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    assert load_panel("alfworld/generated/heldout").hash == other


def test_any_prefix_of_a_generated_panel_mixes_the_task_types() -> None:
    ids = load_panel("alfworld/generated/heldout").task_ids
    assert len({task_id.split("/")[2].split("-")[0] for task_id in ids[:6]}) == 6


def test_training_and_heldout_games_are_apart() -> None:
    train, heldout = (load_panel(f"alfworld/generated/{split}").task_ids for split in ("train", "heldout"))
    scenes = [{task_id.split("/")[2].rsplit("-", 1)[-1] for task_id in ids} for ids in (train, heldout)]
    assert not scenes[0] & scenes[1]


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(UserError, match="alfworld"):
        make_environment("chess")
    with pytest.raises(UserError, match="generated/heldout"):
        load_panel("alfworld/generated/nothing")
