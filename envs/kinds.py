"""Kinds of tasks, as far as an environment's name and a task's id tell: no task is opened, no model asked."""

from __future__ import annotations

import re

from envs.questions.files import SPLIT_WORDS

NUMBERED = re.compile(r"\.[a-z]+$")
"""The end of a folder in a question's id that is a file: its rows are the tasks."""


def task_type(task_id: str) -> str | None:
    """The part of a task id that names its kind; None where there is none, as in WebShop's `17`.

    >>> task_type("valid_seen/pick_two_obj_and_place-Mug-None-Desk-308/trial_T2019")
    'pick_two_obj_and_place'
    """
    folders = task_id.split("/")[:-1]
    return folders[-1].split("-")[0] if folders else None


def task_kind(environment: str, task_id: str) -> str:
    """The kind of a task, the same in every split; empty where an environment has one kind only.

    ALFWorld's is the task type, that of a question its kind or else its file without the words that name a split;
    WebShop has one.

    >>> task_kind("alfworld", "generated/train/pick_heat_then_place_in_recep-Egg-None-Fridge-3/trial_0")
    'pick_heat_then_place_in_recep'
    >>> task_kind("questions", "generated/test/sum/7"), task_kind("questions", "mmlu/anatomy_test.csv/3")
    ('sum', 'anatomy')
    >>> task_kind("webshop", "17")
    ''
    """
    *folders, _ = task_id.split("/")
    if environment != "questions" or not folders or not NUMBERED.search(folders[-1]):
        return task_type(task_id) or ""
    words = re.split(r"[^a-z0-9]+", NUMBERED.sub("", folders[-1].lower()))
    return "_".join(word for word in words if word and word not in SPLIT_WORDS)
