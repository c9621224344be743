"""The memory of experience before a run: where it lies, and whether the run can use it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from envs import Panel
from experience.advice import Book, types_of
from experience.experience_settings import ExperienceSettings
from experience.records import TaskType
from trajectories.errors import UserError


def memory_path(settings: ExperienceSettings, run_dir: Path) -> str:
    """A URI, or an absolute path, since actors run in directories of their own."""
    path = settings.memory or str(run_dir / "memory")
    return path if "://" in path else str(Path(path).resolve())


def planned_types(panels: Iterable[Panel]) -> tuple[TaskType, ...]:
    """The types of all tasks of some panels."""
    return types_of((panel.environment, task_id) for panel in panels for task_id in panel.task_ids)


def check_experience(settings: ExperienceSettings, run_dir: Path) -> None:
    """Whether the memory is there, can be read, and fits the embedder. Raises UserError."""
    if not settings.enabled:
        return
    from experience.memory import Memory  # LanceDB takes seconds to import, and most runs need none
    from experience.store import Store

    path = memory_path(settings, run_dir)
    if not Store.exists(path):
        if settings.learns:
            return
        raise UserError(
            f"there is no memory at {path}: name one with experience.memory, or a chat model that fills a new one "
            "(experience.base_url, experience.model)"
        )
    memory = Memory.inspect(path)
    memory.types()  # what is torn is told now
    if not settings.learns:
        return
    from experience.sentence_embedder import MINILM

    if (made := memory.embedder_name) != (named := settings.embedder or MINILM):
        raise UserError(
            f"the memory {path} holds vectors of {made}, not of {named}: set experience.embedder={made}, or name "
            "another experience.memory"
        )


def frozen_book(settings: ExperienceSettings, panel: Panel, folder: Path) -> Book | None:
    """What a memory knows of a panel's tasks, for an evaluation that only reads it; None where experience is off.

    Args:
        folder: where a memory would lie that has no name.
    Raises:
        UserError: there is no memory, or it cannot be read.
    """
    reading = settings.model_copy(update={"base_url": None, "model": None, "read_only": True})
    check_experience(reading, folder)
    if not settings.enabled:
        return None
    from experience.keeper import Keeper
    from experience.memory import Memory

    memory = Memory.inspect(memory_path(settings, folder))
    return Keeper(memory, planned_types([panel]), settings.half_life, read_only=True).book()
