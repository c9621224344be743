"""Evaluation: a whole panel, how many of its tasks the agent solves and how sure that number is.

Greedy play is one episode a task. It moves late in training, so that sampled play, several episodes a task, can stand
beside it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from cluster.loop.tasks import member_seeds
from cluster.loop.together import play_all
from cluster.reporting.estimators import Frozen, Rate, clustered_rate, pass_at_k, powers_of_two
from envs.kinds import task_type
from envs.panels import Panel
from trajectories.files import reading, written_aside

if TYPE_CHECKING:
    from cluster.loop.ports import FinishedGroup, GroupTask, Rollouts


class TaskResult(Frozen):
    """How one task went: `successes` of `episodes`.

    Attributes:
        rewards: mean of each named reward over the episodes that did not break.
        turns: of all episodes together.
        failed: episodes that the environment or the engine broke; they count as not solved, without rewards.
    """

    task_id: str
    successes: int
    episodes: int
    rewards: dict[str, float]
    turns: int
    failed: int


class Outcome(Frozen):
    """A panel played in one way, greedily or sampled.

    Attributes:
        temperature: 0 is greedy.
        success: share of successful episodes, pass@1, with its cluster-robust 95 % interval.
        pass_at: pass@k by k, the powers of two up to the episodes of a task; empty for an empty panel.
        by_type: success per kind of task, where the task ids tell it.
        rewards: mean of each named reward over all episodes.
        mean_turns: turns of an episode.
        failed: episodes that broke.
    """

    temperature: float
    success: Rate
    pass_at: dict[int, float]
    by_type: dict[str, Rate]
    rewards: dict[str, float]
    mean_turns: float
    failed: int
    tasks: tuple[TaskResult, ...]


class Evaluation(Frozen):
    """Some weights on a panel.

    Attributes:
        panel_hash: hash of the whole panel, so that two results can prove that they played the same games.
        options: the environment's options that make other tasks of the same ids, where they are not the defaults.
        limit: only the first so many tasks were played; None means all.
        max_turns: turns after which an episode was cut off; None where nobody said.
        version: version of the weights; None for a model taken as it is.
        sampled: None where no samples were asked for.
        memory_snapshot: of the experience in the prompts; None: there was none.
        greedy_without, sampled_without: the same weights on the same tasks without it; None where there was none.
        seconds: that it took.
    """

    model: str
    panel: str
    panel_hash: str
    options: Mapping[str, Any] = Field(default_factory=dict)
    limit: int | None
    max_turns: int | None = None
    seed: int
    version: int | None
    greedy: Outcome
    sampled: Outcome | None = None
    memory_snapshot: int | None = None
    greedy_without: Outcome | None = None
    sampled_without: Outcome | None = None
    seconds: float = 0.0

    @property
    def panel_key(self) -> tuple[str, str, int | None, int | None]:
        """Equal for evaluations that played the same tasks, as long."""
        return self.panel, self.panel_hash, self.limit, self.max_turns

    @property
    def outcomes(self) -> dict[str, Outcome]:
        """What was played, by the name of the way: `greedy`, and `sampled` where there is some."""
        return {"greedy": self.greedy} | ({"sampled": self.sampled} if self.sampled is not None else {})

    @property
    def arms(self) -> dict[str, Outcome]:
        """`outcomes`, and behind them those without experience where there was some: `greedy, no experience`, …"""
        plain = {"greedy": self.greedy_without, "sampled": self.sampled_without}
        return self.outcomes | {f"{way}, no experience": outcome for way, outcome in plain.items() if outcome}


Evaluations = Mapping[str, tuple[Evaluation, ...]]
"""Evaluations by name, as `base` or `after_sft`; one a panel."""


class EvaluationFile(Frozen):
    """What `concerto eval` and a run's evaluations write."""

    evaluations: tuple[Evaluation, ...]


@dataclass(frozen=True, slots=True)
class Sampling:
    """What is played of every task: one greedy episode, and `samples` more at `temperature`. `max_turns`: None is as in
    training."""

    samples: int = 0
    temperature: float = 1.0
    seed: int = 0
    max_turns: int | None = None


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose weights are evaluated. `version` is None for a model taken as it is."""

    model: str
    version: int | None = None


async def evaluate_panel(
    rollouts: Rollouts,
    panel: Panel,
    sampling: Sampling,
    subject: Subject,
    limit: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Play every task of the panel (the first `limit` of them), as many at a time as the actors hold: greedily, then
    sampled. `progress` is told how many episodes are done, of how many."""
    from cluster.loop.ports import GroupTask  # here, because it brings torch, and who reads results needs none of it

    started, task_ids = time.monotonic(), panel.task_ids[:limit]
    done, total = 0, len(task_ids) * (1 + sampling.samples)

    def task(temperature: float, episodes: int, position: int) -> GroupTask:
        group_id = f"eval-{panel.name}-{temperature:g}-{sampling.seed}-{subject.version}-{position}"
        seeds, turns = member_seeds(sampling.seed, position, episodes), sampling.max_turns
        return GroupTask(group_id, panel.environment, task_ids[position], seeds, temperature, panel.split, turns)

    def result(task: GroupTask, finished: FinishedGroup) -> TaskResult:
        nonlocal done
        done += len(task.seeds)
        progress(done, total)
        return _task_result(task.task_id, finished)

    async def play(temperature: float, episodes: int) -> Outcome:
        tasks = [task(temperature, episodes, position) for position in range(len(task_ids))]
        return outcome(temperature, await play_all(rollouts, tasks, result))

    greedy = await play(0.0, 1)
    sampled = await play(sampling.temperature, sampling.samples) if sampling.samples else None
    return Evaluation(
        model=subject.model,
        panel=panel.name,
        panel_hash=panel.hash,
        options=panel.options,
        limit=limit,
        max_turns=sampling.max_turns,
        seed=sampling.seed,
        version=subject.version,
        greedy=greedy,
        sampled=sampled,
        seconds=time.monotonic() - started,
    )


def outcome(temperature: float, results: Sequence[TaskResult]) -> Outcome:
    """Sum up the tasks of a panel."""
    episodes = sum(result.episodes for result in results)
    kinds = sorted({kind for result in results if (kind := task_type(result.task_id))})
    by_type = {kind: [result for result in results if task_type(result.task_id) == kind] for kind in kinds}
    totals: Counter[str] = Counter()
    for result in results:
        totals.update({name: mean * (result.episodes - result.failed) for name, mean in result.rewards.items()})
    successes, played = [result.successes for result in results], [result.episodes for result in results]
    return Outcome(
        temperature=temperature,
        success=_rate(results),
        pass_at={k: pass_at_k(successes, played, k) for k in powers_of_two(min(played, default=0))},
        by_type={kind: _rate(of_kind) for kind, of_kind in by_type.items()},
        rewards={name: total / episodes for name, total in totals.items()},
        mean_turns=sum(result.turns for result in results) / max(1, episodes),
        failed=sum(result.failed for result in results),
        tasks=tuple(results),
    )


def write_evaluations(path: Path, evaluations: tuple[Evaluation, ...]) -> None:
    """Write the evaluations as one JSON file, aside and renamed."""
    with written_aside(path) as aside:
        aside.write_text(EvaluationFile(evaluations=evaluations).model_dump_json(indent=1) + "\n", encoding="utf-8")


def read_evaluations(path: Path) -> tuple[Evaluation, ...]:
    """What `write_evaluations` wrote. Raises UserError when it cannot be read."""
    with reading(path, "evaluate again, or move the file away."):
        return EvaluationFile.model_validate_json(path.read_text(encoding="utf-8")).evaluations


def evaluation_file(run_dir: Path, name: str) -> Path:
    return run_dir / "evaluations" / f"{name}.json"


def run_evaluations(run_dir: Path) -> Evaluations:
    """The run's evaluations, in the order of the weights that they played; of the same weights, in the order of time,
    which alone would not do: a copy of a run has times of its own."""
    files = sorted((run_dir / "evaluations").glob("*.json"), key=lambda file: file.stat().st_mtime)
    read = {file.stem: read_evaluations(file) for file in files}
    return dict(sorted(read.items(), key=lambda item: max((one.version or 0 for one in item[1]), default=0)))


def _task_result(task_id: str, finished: FinishedGroup) -> TaskResult:
    return TaskResult(
        task_id=task_id,
        successes=finished.successes,
        episodes=finished.members + finished.failed,
        rewards=dict(finished.rewards),
        turns=finished.turns,
        failed=finished.failed,
    )


def _rate(results: Sequence[TaskResult]) -> Rate:
    return clustered_rate([result.successes for result in results], [result.episodes for result in results])
