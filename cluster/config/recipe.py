"""Recipes: the main tables of the three papers as runs of Concerto, with the numbers that the papers print.

A recipe is a file in `recipes/`. What it trains is a matrix (`cluster.config.matrix`), or it asks a served model a
stream of questions; each of its sizes changes that to fit a machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field

from cluster.config.loading import PRESETS, check_config, merge
from cluster.config.matrix import MatrixSettings, check_matrix
from cluster.config.run import RunSettings
from trajectories.errors import UserError, did_you_mean
from trajectories.settings import Settings

FOLDER = Path(__file__).parent / "recipes"
RECIPES = tuple(sorted(file.stem for file in FOLDER.glob("*.yaml")))
STREAM = "stream"
"""In place of a panel: the questions of a stream."""

SizeName = Literal["local", "gpu", "cluster"]


class Measure(Settings):
    """A column of the table: something that the paper prints, that we measure, or both."""

    title: str
    metric: Literal["success", "score", "speedup", "tokens"] = "success"
    """`success` and `score` in percent; `speedup` of training against the reference arm; `tokens` a question."""
    panel: str | None = None
    """Where we measure it: a panel, or `stream`; null: nowhere, or, of a speed-up, over all of a run."""
    kind: str | None = None
    """Only the panel's tasks of this kind: of questions, the name of their file."""
    source: str = ""
    """The table of the paper; empty: it prints no such number."""


class Row(Settings):
    """A row of the paper's table: its name there, and its values by measure, as far as we have found them."""

    name: str
    values: dict[str, float] = Field(default_factory=dict)


class RecipeSize(Settings):
    """What a recipe takes on one kind of machine."""

    differs: str
    """What is not as in the paper."""
    needs: tuple[str, ...] = ()
    """What must be there before."""
    start: dict[str, Any] | None = None
    """Settings, on top of the matrix's, of a run whose model all arms start from; null: from the preset's model."""
    matrix: dict[str, Any] = Field(default_factory=dict)
    """Changes to the recipe's matrix; an arm that is null is not run."""
    questions: int | str = 0
    """Questions of a stream: so many generated ones, or those of a file."""
    model: str = ""
    """The model that a stream asks; whoever gives the command serves it."""


class Recipe(Settings):
    """One paper's table."""

    title: str
    paper: str
    conditions: str
    """Of the published numbers: model, machine, and what we do not know."""
    measures: dict[str, Measure]
    published: dict[str, Row]
    """By arm; arms that nobody runs are the paper's alone."""
    matrix: dict[str, Any] | None = None
    """What all sizes have in common; null: the recipe is a stream of questions."""
    sizes: dict[SizeName, RecipeSize]

    @property
    def trains(self) -> bool:
        """It trains policies; else it asks a served model."""
        return self.matrix is not None

    def at(self, size: str) -> RecipeSize:
        """Raises UserError for a size that the recipe does not have."""
        for name, changes in self.sizes.items():
            if name == size:
                return changes
        raise UserError(
            f"unknown size {size!r}: choose one of {', '.join(self.sizes)}.{did_you_mean(size, self.sizes)}"
        )

    def matrix_at(self, size: str, model: str | None = None) -> MatrixSettings:
        """The arms at a size, starting from `model` where it is given."""
        values = merge(self.matrix or {}, self.at(size).matrix)
        values["arms"] = {name: arm for name, arm in values["arms"].items() if arm is not None}
        if model is not None:
            values["settings"] = merge(values["settings"], {"policy": {"model": model}})
        return check_matrix(values, f"{self.title}, size {size}")

    def start_at(self, size: str) -> RunSettings | None:
        """The run whose model all arms start from; None where they start from the preset's model."""
        start, matrix = self.at(size).start, self.matrix_at(size) if self.trains else None
        if start is None or matrix is None:
            return None
        return check_config(merge(merge(PRESETS[matrix.preset], matrix.settings), start))


def load_recipe(name: str) -> Recipe:
    """Raises UserError when there is no such recipe."""
    if name not in RECIPES:
        raise UserError(f"unknown recipe {name!r}: choose one of {', '.join(RECIPES)}.{did_you_mean(name, RECIPES)}")
    return Recipe.model_validate(yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8")))
