"""What playing while the learner steps is worth, and what the control loop itself costs: the real loop on engines and
a learner that only take time, on a clock that jumps to the next event.

    python -m benchmarks.asynchrony --out asynchrony.json

An episode takes as long as its tokens. Their number is log-normal and cut off at a limit, as answers of reasoning
models are (AReaL, arXiv 2505.24298, trains on up to 27,648 tokens), or it is that of turns of ALFWorld. The learner
takes as long for a batch as engines that are never idle: the split of machines that one would choose.
"""

from __future__ import annotations

import argparse
import asyncio
import selectors
import tempfile
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from benchmarks.figures import Figure, write_figures
from cluster.config.sections import CheckpointSettings, ScheduleSettings
from cluster.loop.ports import FinishedGroup, GroupTask, Trained
from cluster.runtime.fleet import IN_HAND
from tests.cluster.simulation import (
    SimulatedLearner,
    SimulatedRecorder,
    SimulatedRollouts,
    World,
    coordinator,
    programme,
)

Seconds = NDArray[np.float64]
"""[members]"""
TOKEN_S = 0.02
"""Of one sequence in a full engine: 50 tokens a second."""
MEDIAN, SIGMA, LONGEST = 4_000, 1.0, 27_648
TURN_S = 1.0
TURNS = {4: 1, 6: 4, 8: 7, 10: 8, 12: 8, 15: 12, 20: 11, 30: 4, 50: 45}
"""Episodes of ALFWorld in a hundred by turns, at most 50: a policy in training that solves a little more than half."""


def reasoning_seconds(rng: np.random.Generator, members: int) -> Seconds:
    return TOKEN_S * np.minimum(MEDIAN * np.exp(SIGMA * rng.standard_normal(members)), LONGEST)


def alfworld_seconds(rng: np.random.Generator, members: int) -> Seconds:
    shares = np.array(list(TURNS.values())) / sum(TURNS.values())
    return TURN_S * rng.choice(list(TURNS), members, p=shares) * rng.uniform(0.8, 1.2, members)


LENGTHS: dict[str, Callable[[np.random.Generator, int], Seconds]] = {
    "reasoning": reasoning_seconds,
    "alfworld": alfworld_seconds,
}


@dataclass(frozen=True)
class Plan:
    """Engines that play `episodes` each at once; `steps` of `batch` groups of `members` are trained."""

    actors: int
    batch: int
    steps: int
    lengths: str
    episodes: int = 16
    members: int = 8

    @property
    def learner_s(self) -> float:
        """Seconds of the engines for a batch when every place is always taken."""
        mean = np.mean(LENGTHS[self.lengths](np.random.default_rng(0), 100_000))
        return float(mean) * self.batch * self.members / (self.actors * self.episodes)


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer where it would wait for it."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        return self.now


class _JumpingSelector(selectors.SelectSelector):
    def __init__(self, loop: JumpingLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        """Without a timer there is a thread to wait for, in real time."""
        events = super().select(None if timeout is None else 0)
        if not events and timeout:
            self._loop.now += timeout
        return events


class Engines(SimulatedRollouts):
    """Each actor plays `episodes` at once and takes groups until it has `in_hand` times as many; a group is
    done with its longest member."""

    def __init__(self, plan: Plan, in_hand: float) -> None:
        super().__init__(concurrency=plan.actors * int(plan.episodes * in_hand) // plan.members)
        self._lengths, self.busy_s = LENGTHS[plan.lengths], 0.0
        self._free = [asyncio.Semaphore(plan.episodes) for _ in range(plan.actors)]
        self._load = [0] * plan.actors

    async def run_group(self, task: GroupTask) -> FinishedGroup:
        members, version = len(task.seeds), self.version
        seconds = self._lengths(np.random.default_rng(task.seeds[0]), members)
        actor = self._load.index(min(self._load))
        self._load[actor] += members
        await asyncio.gather(*(self._play(actor, episode) for episode in seconds))
        self._load[actor] -= members
        return FinishedGroup(
            "mock", members, 1, 0, 0, 0, version, members, {"success": 0.5}, frozenset({"success"}), None
        )

    async def _play(self, actor: int, seconds: float) -> None:
        async with self._free[actor]:
            await asyncio.sleep(seconds)
            self.busy_s += seconds


@dataclass
class Learner(SimulatedLearner):
    """Takes `slowness_s` a step."""

    async def train(self, stage: str, groups: Sequence[Any], demonstrations: Sequence[int]) -> Trained:
        await asyncio.sleep(self.slowness_s)
        self.steps += 1
        return Trained({"trained_tokens": 1.0})


@dataclass
class Recorder(SimulatedRecorder):
    """Writing is another process's."""

    async def write(self, part: int, groups: Sequence[Any], assignments: Any) -> None: ...


@dataclass(frozen=True)
class Outcome:
    """Of one run.

    Attributes:
        groups_per_hour: of simulated time, the first tenth of the steps left out.
        engines: share of the time that a place in an engine plays an episode.
        learner: share of the time that the learner steps.
        staleness: mean over the steps.
        loop_ms: CPU time of the loop for a group.
        megabytes: of this process, after a tenth of the steps and at the end.
    """

    lengths: str
    actors: int
    max_staleness: int
    in_hand: float
    groups_per_hour: float
    engines: float
    learner: float
    staleness: float
    loop_ms: float
    megabytes: tuple[float, float]


def simulate(plan: Plan, max_staleness: int, in_hand: float) -> Outcome:
    """A run of the plan, and what came of it."""
    loop, process = JumpingLoop(), psutil.Process()
    engines = Engines(plan, in_hand)
    world = World(engines, Learner(slowness_s=plan.learner_s))
    marks: list[tuple[float, float, float]] = []

    def mark(step: int) -> None:
        if step in (max(1, plan.steps // 10), plan.steps):
            marks.append((loop.time(), engines.busy_s, process.memory_info().rss / 2**20))

    world.log.at_step = mark
    schedule = ScheduleSettings(
        grpo_steps=plan.steps,
        groups_per_step=plan.batch,
        group_size=plan.members,
        max_staleness=max_staleness,
        group_timeout_s=1e6,
    )
    with tempfile.TemporaryDirectory() as folder:
        world.recorder = Recorder(Path(folder))
        run = coordinator(Path(folder), programme(schedule, checkpoint=CheckpointSettings(every=10**6)), world)
        began = time.process_time()
        run_on(loop, run.run())
        spent = time.process_time() - began
    (start, busy, memory), (end, busy_at_end, memory_at_end) = marks
    trained = plan.steps - max(1, plan.steps // 10)
    return Outcome(
        lengths=plan.lengths,
        actors=plan.actors,
        max_staleness=max_staleness,
        in_hand=in_hand,
        groups_per_hour=3600 * trained * plan.batch / (end - start),
        engines=round((busy_at_end - busy) / (end - start) / (plan.actors * plan.episodes), 3),
        learner=round(trained * plan.learner_s / (end - start), 3),
        staleness=round(float(np.mean([one["staleness"] for one in world.log.metrics])), 3),
        loop_ms=round(1000 * spent / (plan.steps * plan.batch), 3),
        megabytes=(round(memory, 1), round(memory_at_end, 1)),
    )


def run_on(loop: JumpingLoop, work: Coroutine[Any, Any, None]) -> None:
    """Carry `work` out on a loop of one's own."""
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(work)


SETTINGS = ((0, 1.0), (1, 1.0), (2, 1.0), (4, 1.0), (1, 2.0), (2, 2.0), (4, 2.0), (4, 4.0))
"""Staleness, and times its episodes that an actor may have in hand; the first is what the others are compared with."""
GOAL, STALE = 2.5, 2
"""What playing meanwhile is held to: times the groups of taking turns, at this staleness."""
HEAD = "| lengths | staleness | in hand | groups an hour | times | engines | learner | mean staleness | loop, ms |"


def figures(outcomes: Sequence[Outcome]) -> list[Figure]:
    """Groups an hour against taking turns, where actors have in hand what they do in a run; costs of the last one."""
    found = []
    for lengths in LENGTHS:
        rates = {(o.max_staleness, o.in_hand): o.groups_per_hour for o in outcomes[:-1] if o.lengths == lengths}
        times = rates[STALE, IN_HAND] / rates[SETTINGS[0]]
        found.append(Figure(f"{lengths}, staleness {STALE}", times, "times the groups of taking turns", at_least=GOAL))
    large, (before, after) = outcomes[-1], outcomes[-1].megabytes
    found.append(Figure(f"coordinator with {large.actors:,} actors", large.loop_ms, "CPU ms a group"))
    found.append(Figure("its memory, growth over the last nine tenths", after - before, "MB"))
    return found


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60, help="learner steps of each comparison")
    parser.add_argument("--long", type=int, default=1_000, help="learner steps of the run with 1,000 actors")
    parser.add_argument("--out", type=Path, help="JSON file")
    return parser


def main() -> None:
    arguments = make_parser().parse_args()
    print(HEAD + "\n" + "|---" * HEAD.count(" | ") + "|---|")
    outcomes = []
    for lengths in LENGTHS:
        plan, base = Plan(actors=32, batch=64, steps=arguments.steps, lengths=lengths), 0.0
        for max_staleness, in_hand in SETTINGS:
            outcomes.append(outcome := simulate(plan, max_staleness, in_hand))
            base = base or outcome.groups_per_hour
            print(_row(outcome, base))
    large = Plan(actors=1_000, batch=250, steps=arguments.long, lengths="reasoning")
    outcomes.append(outcome := simulate(large, max_staleness=2, in_hand=IN_HAND))
    before, after = outcome.megabytes
    print(f"1,000 actors, {arguments.long} steps: {outcome.loop_ms} ms a group, {before} MB, {after} MB at the end")
    rows = [asdict(outcome) for outcome in outcomes]
    write_figures(arguments.out, "asynchrony", figures(outcomes), rows=rows)


def _row(one: Outcome, base: float) -> str:
    cells = (one.lengths, one.max_staleness, f"{one.in_hand:g}", f"{one.groups_per_hour:,.0f}")
    shares = (f"{one.groups_per_hour / base:.2f}", f"{one.engines:.2f}", f"{one.learner:.2f}", f"{one.staleness:.2f}")
    return f"| {' | '.join(map(str, (*cells, *shares, f'{one.loop_ms:.2f}')))} |"


if __name__ == "__main__":
    main()
