"""Recipes before anything is started: what is asked for, whether it can be, and what it would do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cluster.config.recipe import RECIPES, Recipe, load_recipe
from cluster.config.run import RunSettings
from trajectories.errors import UserError


@dataclass(frozen=True, slots=True)
class RecipeJob:
    """A recipe at a size, with the endpoint that a stream asks."""

    name: str
    size: str
    base_url: str | None = None
    model: str | None = None

    @property
    def recipe(self) -> Recipe:
        return load_recipe(self.name)

    def check(self) -> None:
        """Raises UserError for an unknown recipe or size, and for an endpoint that is missing or of no use."""
        recipe, endpoint = self.recipe, (self.base_url, self.model)
        model = recipe.at(self.size).model
        if recipe.trains and any(endpoint):
            raise UserError(f"{self.name} trains a policy of its own: leave out --base-url and --model.")
        if not recipe.trains and not all(endpoint):
            raise UserError(
                f"{self.name} asks a served model: serve {model}, and add --base-url http://HOST:PORT/v1 --model NAME."
            )


def list_recipes() -> Iterator[str]:
    """A line for each recipe."""
    for name in RECIPES:
        recipe = load_recipe(name)
        yield f"{name}: {recipe.title} ({recipe.paper}); sizes {', '.join(recipe.sizes)}"


def plan_lines(job: RecipeJob) -> Iterator[str]:
    """What a recipe would do. Raises UserError for an unknown recipe or size."""
    recipe, at = job.recipe, job.recipe.at(job.size)
    yield f"{recipe.title}, size {job.size} ({recipe.paper})"
    yield from _matrix_lines(recipe, job.size) if recipe.trains else _stream_lines(at.questions, at.model)
    yield from (f"Needs: {need}" for need in at.needs)
    yield f"What differs: {at.differs}"
    yield f"The published numbers: {recipe.conditions}"


def starting_model(recipe: Recipe, size: str) -> str:
    """What the arms start from, in words."""
    matrix = recipe.matrix_at(size)
    model = next(iter(matrix.runs().values())).policy.model
    return f"{model} after the run `start`" if recipe.at(size).start else model


def _matrix_lines(recipe: Recipe, size: str) -> Iterator[str]:
    matrix, start = recipe.matrix_at(size), recipe.start_at(size)
    runs = matrix.runs()
    first = next(iter(runs.values()))
    yield f"Model: {starting_model(recipe, size)}; preset {matrix.preset}"
    yield f"Plays: {', '.join(first.tasks)}; evaluated on {', '.join(first.evaluation.panels or ())}"
    if start is not None:
        yield f"First the run start: {_length(start)}"
    yield f"Then {len(matrix.arms)} arms x seeds {', '.join(map(str, matrix.seeds))} = {len(runs)} runs:"
    for arm, changes in matrix.arms.items():
        yield f"  {arm}: {_length(runs[f'{arm}-{matrix.seeds[0]}'])}; {', '.join(_dotted(changes))}"


def _stream_lines(questions: int | str, model: str) -> Iterator[str]:
    yield f"Model: {model}, or another; serve it, and name it with --base-url and --model"
    yield f"Questions: {questions if isinstance(questions, str) else f'{questions} generated ones'}"
    yield "Arms: none (empty memory), full, no-transfer, no-induction"


def _length(config: RunSettings) -> str:
    """How long the stages of a run are, as it is set."""
    names = ("sft_steps", "sft_epochs", "mixed_steps", "grpo_steps", "grpo_epochs")
    stages = {name: getattr(config.schedule, name) for name in names}
    return ", ".join(f"{name}={count}" for name, count in stages.items() if count)


def _dotted(changes: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The settings of an arm, as `--set` takes them."""
    for name, value in changes.items():
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}={value}"
