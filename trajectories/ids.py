"""How things are named: the demonstration of a task, and what Ray is told a name is."""

from __future__ import annotations

import re

PREFIX = "demonstration/"


def demonstration_id(environment: str, task_id: str) -> str:
    """The episode id of the expert's demonstration of a task."""
    return f"{PREFIX}{environment}/{task_id}"


def demonstrated_task(episode_id: str) -> tuple[str, str]:
    """(environment, task) that a demonstration solves, by its episode's id."""
    environment, _, task_id = episode_id.removeprefix(PREFIX).partition("/")
    return environment, task_id


def plain_name(name: str) -> str:
    """A name that every part of Ray takes; letters with accents stop Ray Train and Ray's metrics.

    >>> plain_name("für é 1.0")
    'f-r-1.0'
    """
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)
