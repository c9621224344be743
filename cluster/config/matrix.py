"""The matrix of a comparison: arms (routers, mostly) x seeds, all else equal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError

from cluster.config.loading import PRESETS, check_config, merge
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


def load_matrix(path: Path) -> MatrixSettings:
    """Raises UserError when the file cannot be read or says something unknown."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"cannot read the matrix {path}: {' '.join(str(error).split())}") from None
    try:
        matrix = MatrixSettings.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"]) or "the file"
        raise UserError(
            f"{path}: {place}: {problem['msg']}; a matrix has {', '.join(MatrixSettings.model_fields)}."
        ) from None
    if matrix.preset not in PRESETS:
        raise UserError(f"{path}: unknown preset {matrix.preset!r}.{did_you_mean(matrix.preset, PRESETS)}")
    if matrix.reference is not None and matrix.reference not in matrix.arms:
        raise UserError(f"{path}: the reference {matrix.reference!r} is no arm: name one of {', '.join(matrix.arms)}.")
    return matrix
