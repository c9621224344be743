"""The matrix of a comparison: arms (routers, mostly) x seeds, all else equal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError

from cluster.config.loading import PRESETS, UNREADABLE, check_config, merge
from cluster.config.run import RunSettings
from trajectories.errors import UserError, did_you_mean
from trajectories.settings import Settings

ArmName = Annotated[str, Field(pattern=r"^[\w-]+$")]


class MatrixSettings(Settings):
    """What `concerto compare` reads."""

    preset: str = "local"
    """Preset that every run starts from: local, instruct, gpu or cluster."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Settings of every run, on top of the preset: sections as in `--config`."""
    seeds: tuple[int, ...] = Field(default=(0, 1, 2), min_length=1)
    """Seeds; every arm is trained with each. Tuning: three or more, since single runs differ by several points."""
    arms: dict[ArmName, dict[str, Any]] = Field(min_length=1)
    """What each arm changes, by its name."""
    reference: str | None = None
    """Arm against whose training time the others' is compared; full GRPO, as a rule."""

    def runs(self) -> dict[str, RunSettings]:
        """Configurations by name, `<arm>-<seed>`: all arms of a seed, then those of the next.

        Raises:
            UserError: a setting does not fit, and the line names the arm; or arms are not evaluated alike.
        """
        runs = {f"{arm}-{seed}": self._config(arm, seed) for seed in self.seeds for arm in self.arms}
        first, *others = runs.items()
        if not _played(first[1])[0]:
            raise UserError("evaluation.panels is empty, so there is nothing to compare: leave it out.")
        for name, config in others:
            if _played(config) != _played(first[1]):
                raise UserError(
                    f"{name} and {first[0]} are evaluated on other games, or otherwise: give both the same tasks, "
                    "environments, evaluation.panels, limit, samples and max_turns, and schedule.temperature."
                )
        return runs

    def _config(self, arm: str, seed: int) -> RunSettings:
        common = merge(PRESETS[self.preset], self.settings)
        try:
            return check_config(merge(common, self.arms[arm]) | {"seed": seed})
        except UserError as error:
            raise UserError(f"arm {arm}: {error}") from None


def _played(config: RunSettings) -> tuple[Any, ...]:
    """How a run is evaluated: panels, or the environments whose held-out panels are; how much of them; and how."""
    evaluation = config.evaluation
    panels = config.tasks if evaluation.panels is None else evaluation.panels
    sampling = (evaluation.samples, config.schedule.temperature.end) if evaluation.samples else ()
    tasks = [options.task_options() for _, options in config.environments]
    return panels, evaluation.limit, sampling, config.eval_turns, tasks


def _explain(error: ValidationError) -> str:
    """A problem in words of a matrix: an unknown key first, since it may be what another one lacks."""
    problem = min(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    known = MatrixSettings.model_fields
    place, kind = problem["loc"], problem["type"]
    if not place:
        return f"it holds no keys. A matrix has {', '.join(known)}."
    name = str(place[0])
    if kind == "extra_forbidden":
        return f"unknown key {name!r}. A matrix has {', '.join(known)}.{did_you_mean(name, known)}"
    if kind == "missing":
        return f"it has no {name}: {known[name].description}"
    if place[-1] == "[key]":
        return f"the arm {place[1]!r}: a name is text, of letters, digits, _ and - (a number in quotes)."
    dotted = ".".join(map(str, place))
    if kind == "dict_type":
        return f"{dotted}={problem['input']!r}: give sections such as `learner: {{lr: 1e-5}}`, or {{}}."
    message = problem["msg"]
    return f"{dotted}={problem['input']!r} does not fit: {message[0].lower()}{message[1:]}."


def load_matrix(path: Path) -> MatrixSettings:
    """Raises UserError when the file cannot be read or says something unknown."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, *UNREADABLE) as error:
        raise UserError(f"cannot read the matrix {path}: {' '.join(str(error).split())}") from None
    return check_matrix(values, str(path))


def check_matrix(values: Any, source: str) -> MatrixSettings:
    """The matrix that `values` describe. Raises UserError, which names their `source`, for what is unknown."""
    try:
        matrix = MatrixSettings.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{source}: {_explain(error)}") from None
    if matrix.preset not in PRESETS:
        raise UserError(f"{source}: unknown preset {matrix.preset!r}.{did_you_mean(matrix.preset, PRESETS)}")
    if matrix.reference is not None and matrix.reference not in matrix.arms:
        raise UserError(
            f"{source}: the reference {matrix.reference!r} is no arm: name one of {', '.join(matrix.arms)}."
        )
    return matrix
