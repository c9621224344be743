"""`RUN/best`: the weights of a run's best evaluation so far, as a Hugging Face model directory.

What is known of it lies in the folder itself (`best.json`), so that weights and figures have their name in one move,
and a run that goes on after whatever stopped it never puts worse weights in the place of better ones.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cluster.reporting.estimators import Frozen, Rate
from cluster.reporting.evaluation import Evaluation, evaluation_file, read_evaluations
from envs.panels import Panel
from trajectories.errors import UserError
from trajectories.files import written_aside

FOLDER, FILE = "best", "best.json"
ONLY_TEST_PANELS = (
    "no best/ weights are kept, since nothing may be chosen by a test panel; evaluation.panels names others"
)


class Measure(Frozen):
    """What weights are chosen by: success on these panels, given by name and hash, of this way of playing."""

    play: Literal["greedy", "sampled"]
    temperature: float
    limit: int | None
    max_turns: int | None
    panels: dict[str, str]


class Best(Frozen):
    """Figures of an evaluation whose weights are, or could be, the best.

    Attributes:
        evaluation: its name, as `after_sft`.
        version: version of the weights.
        success: mean over the panels that choose; `by_panel`: of each.
    """

    evaluation: str
    version: int | None
    success: float
    by_panel: dict[str, Rate]
    measure: Measure


def choosing_panels(panels: Sequence[Panel]) -> tuple[Panel, ...]:
    """Those by which weights may be chosen: no test panels."""
    return tuple(panel for panel in panels if not panel.test)


def figures(name: str, results: Sequence[Evaluation]) -> Best:
    """The figures of an evaluation on the panels that choose, one or more: of sampled play where there is some, which
    says sooner than greedy play what RL does."""
    first = results[0]
    played = {result.panel: result.sampled or result.greedy for result in results}
    measure = Measure(
        play="greedy" if first.sampled is None else "sampled",
        temperature=played[first.panel].temperature,
        limit=first.limit,
        max_turns=first.max_turns,
        panels={result.panel: result.panel_hash for result in results},
    )
    by_panel = {panel: outcome.success for panel, outcome in played.items()}
    mean = sum(rate.rate for rate in by_panel.values()) / len(by_panel)
    return Best(evaluation=name, version=first.version, success=mean, by_panel=by_panel, measure=measure)


@dataclass(frozen=True, slots=True)
class BestKeeper:
    """Keeps the best weights of a run.

    Attributes:
        panels: all that the run evaluates.
        save: writes the present weights as a model directory.
        say: tells a line.
    """

    run_dir: Path
    panels: tuple[Panel, ...]
    save: Callable[[Path], Awaitable[None]]
    say: Callable[[str], None]

    async def keep(self, name: str) -> None:
        """Keep the present weights if the evaluation `name`, which was of them, is better than the best before."""
        choosing = {panel.name for panel in choosing_panels(self.panels)}
        results = [
            result for result in read_evaluations(evaluation_file(self.run_dir, name)) if result.panel in choosing
        ]
        if not results:
            return
        now, before = figures(name, results), read_best(self.run_dir)
        if before is not None and before.measure != now.measure:
            self.say(
                f"best/ was chosen by other evaluations and stays; move {self.run_dir / FOLDER} away to choose anew"
            )
        elif before is None or now.success > before.success:
            with written_aside(self.run_dir / FOLDER) as aside:
                await self.save(aside)
                (aside / FILE).write_text(now.model_dump_json(indent=1) + "\n", encoding="utf-8")
            self.say(f"best so far: {name}, {now.measure.play} success {now.success:.3f}; its weights are in best/")


def read_best(run_dir: Path) -> Best | None:
    """What the run knows of its best weights; None where there are none yet. Raises UserError when it is damaged."""
    file = run_dir / FOLDER / FILE
    if not file.exists():
        return None
    try:
        return Best.model_validate_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # pydantic's and that of UTF-8 are ValueErrors
        raise UserError(f"{file} cannot be read: move {file.parent} away to choose the best weights anew.") from error
