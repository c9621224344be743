"""How the demonstration of a task is named."""

from __future__ import annotations

PREFIX = "demonstration/"


def demonstration_id(environment: str, task_id: str) -> str:
    """The episode id of the expert's demonstration of a task."""
    return f"{PREFIX}{environment}/{task_id}"


def demonstrated_task(episode_id: str) -> tuple[str, str]:
    """(environment, task) that a demonstration solves, by its episode's id."""
    environment, _, task_id = episode_id.removeprefix(PREFIX).partition("/")
    return environment, task_id
