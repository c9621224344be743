"""The evaluations that a run makes of its own weights, before, between and after the stages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cluster.config.run import RunSettings
from cluster.loop.ports import Rollouts
from cluster.reporting.advised import evaluate_advised
from cluster.reporting.evaluation import (
    Evaluation,
    Sampling,
    Subject,
    evaluate_panel,
    evaluation_file,
    write_evaluations,
)
from cluster.reporting.progress import RunObserver
from cluster.runtime.fleet import RolloutFleet
from envs import Panel
from experience.advice import Book


@dataclass(frozen=True, slots=True)
class RunEvaluation:
    """Plays a run's evaluation panels with the weights that were published last."""

    run_dir: Path
    config: RunSettings
    panels: tuple[Panel, ...]
    fleet: RolloutFleet
    observer: RunObserver
    book: Callable[[], Book | None] = lambda: None
    """What is known now; frozen while the panels are played."""
    judged: Callable[[Rollouts], Rollouts] = lambda rollouts: rollouts
    """Has a judge grade what is played, where there is one."""

    async def play(self, name: str) -> None:
        """Play the panels and write `RUN/evaluations/<name>.json`."""
        book = self.book()
        results = tuple([await self._play_panel(name, panel, book) for panel in self.panels])
        write_evaluations(evaluation_file(self.run_dir, name), results)

    async def _play_panel(self, name: str, panel: Panel, book: Book | None) -> Evaluation:
        settings = self.config.evaluation
        title = name if len(self.panels) == 1 else f"{name} on {panel.name}"
        evaluate = partial(
            evaluate_panel,
            panel=panel,
            sampling=Sampling(
                settings.samples, self.config.schedule.temperature.end, self.config.seed, self.config.eval_turns
            ),
            subject=Subject(self.config.policy.model, self.fleet.version),
            limit=settings.limit,
            progress=lambda done, total: self.observer.activity(f"eval {title}", done, total),
        )
        result = await evaluate_advised(self.judged(self.fleet), book, self.config.experience.max_tokens, evaluate)
        for play, outcome in result.arms.items():
            rate, way = outcome.success, "" if play == "greedy" else f", {play}"
            self.observer.say(
                f"evaluation {title}{way}: {rate.wins} of {rate.episodes} solved, success {rate}, "
                f"{outcome.mean_turns:.1f} turns"
            )
        return result
