"""What the Conductor costs, as a share of a learner step, and of a whole step of a run.

    python -m benchmarks.conductor --run runs/demo      # a run with a GRPO stage, for the learner's share of a step

The same rollouts are trained by plain GRPO and with the Conductor in turn: advantages found from the terminal states,
in the training pass or in one before it, the Conductor's parameters fetched and its experience sent by actor calls, an
update every third step. Whole steps of each kind are timed in one run; the actor calls also by themselves.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import tempfile
import time
from pathlib import Path

import numpy as np
import ray
import torch
from transformers import AutoConfig

from actors.conductor import RemoteConductor, start_conductor
from benchmarks.figures import Figure, write_figures
from benchmarks.models import transcripts
from cluster.reporting.metrics import read_metrics
from learners.learner_settings import GRPOSettings, LearnerSettings, OptimizerSettings, PolicySettings
from learners.objectives import advantages
from learners.objectives.assign import pending_assignments, scalarised_assignments
from learners.rewards.conductor_head import ConductorScalariser
from learners.rewards.reward_batch import RewardBatch
from learners.rewards.reward_settings import ConductorSettings
from learners.rewards.scalarisers import Uniform
from learners.workers.process import keep_freed_memory, multiply_with_onednn
from learners.workers.worker import LearnerWorker
from trajectories import schema
from trajectories.types import Sequence

CHANNELS = ("success", "progress", "format", "action_validity", "efficiency")
LIMIT = 0.03


def reward_batch(groups: int, size: int) -> RewardBatch:
    """Random rewards."""
    values = torch.rand(groups * size, len(CHANNELS), dtype=torch.float64)
    return RewardBatch(
        names=CHANNELS,
        episode_ids=tuple(f"e-{index}" for index in range(groups * size)),
        rewards=values,
        groups=torch.arange(groups).repeat_interleave(size),
        outcome=values[:, 0],
    )


PLAIN, TRAINING = "GRPO", "with contexts as it trains"
KINDS = {PLAIN: None, TRAINING: "training", "with contexts beforehand": "own"}
"""Steps, and from which pass (`reward.conductor.context_pass`) the Conductor's contexts come in them."""


class Contest:
    """Steps of each kind on the same rollouts and by the same worker."""

    def __init__(self, model: str, sequences: list[Sequence], batch: RewardBatch, conductor: RemoteConductor) -> None:
        optimizer = OptimizerSettings(token_budget=1024, lr=1e-6)
        self._worker = LearnerWorker(LearnerSettings(policy=PolicySettings(model=model), optimizer=optimizer))
        self._sequences, self._batch = schema.sequences_to_table(sequences), batch
        self._conductor = conductor
        self.calls: list[float] = []

    async def step(self, kind: str) -> None:
        """One learner step: by plain GRPO, or with the Conductor's contexts from the pass that KINDS names."""
        if context_pass := KINDS[kind]:
            await self._conducted(ConductorSettings.model_validate({"context_pass": context_pass}))
        else:
            self._plain()

    def _plain(self) -> None:
        scalarised = Uniform()(self._batch)
        assignments = scalarised_assignments(self._sequences, self._batch, scalarised, GRPOSettings())
        self._worker.train("grpo", self._sequences, assignments)

    async def _conducted(self, config: ConductorSettings) -> None:
        started = time.perf_counter()
        scalarise = ConductorScalariser(await self._conductor.head(), config, advantages.grpo)
        called = time.perf_counter() - started
        assignments = pending_assignments(self._sequences, self._batch)
        parts = ("grpo", self._sequences, assignments, self._batch, scalarise)
        _, weighed = self._worker.train_weighing(*parts)
        assert weighed is not None and weighed.scalarised.choices is not None
        earned = scalarise.meta_rewards(self._batch, weighed.rows, weighed.scalarised.advantages)
        started = time.perf_counter()
        await self._conductor.observe(weighed.contexts, weighed.scalarised.choices, earned)
        self.calls.append(called + time.perf_counter() - started)


async def measure(contest: Contest, rounds: int) -> dict[str, np.ndarray]:
    """CPU seconds of this process for the steps of each kind, in turn; the first of each does not count."""
    spent: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(rounds + 1):
        for kind, seconds in spent.items():
            started = time.process_time()
            await contest.step(kind)
            seconds.append(time.process_time() - started)
    return {kind: np.array(seconds[1:]) for kind, seconds in spent.items()}


def learner_share(run: Path) -> float:
    """Share of the learner in the seconds of a run's GRPO steps."""
    steps = [record for record in read_metrics(run) if record["stage"] == "grpo"]
    return sum(record["seconds"] for record in steps) / sum(record["step_s"] for record in steps)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="learners/tiny/model", help="policy; its hidden size is the context's")
    parser.add_argument("--groups", type=int, default=4, help="groups a step; 4 in the local preset")
    parser.add_argument("--size", type=int, default=8, help="rollouts a group; 8 in the local preset")
    parser.add_argument("--tokens", type=int, default=550, help="mean tokens of a rollout")
    parser.add_argument("--rounds", type=int, default=9, help="steps of each kind")
    parser.add_argument("--run", type=Path, help="run whose metrics tell the learner's share of a whole step")
    parser.add_argument("--out", type=Path, help="JSON file")
    return parser


def main() -> None:
    arguments = make_parser().parse_args()
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(1)
    keep_freed_memory()  # as workers do
    multiply_with_onednn()
    torch.manual_seed(0)

    count = arguments.groups * arguments.size
    hidden = AutoConfig.from_pretrained(arguments.model).hidden_size
    with tempfile.TemporaryDirectory(prefix="concerto-ray-") as folder:
        ray.init(num_cpus=2, include_dashboard=False, _temp_dir=folder, log_to_driver=False)
        try:
            handle = start_conductor(CHANNELS, hidden, ConductorSettings(), {"num_cpus": 0.1})
            sequences = transcripts(count, arguments.tokens, vocabulary=1000)
            batch = reward_batch(arguments.groups, arguments.size)
            contest = Contest(arguments.model, sequences, batch, RemoteConductor(handle))
            spent = asyncio.run(measure(contest, arguments.rounds))
        finally:
            ray.shutdown()
    calls, medians = float(np.median(contest.calls[2:])), {kind: float(np.median(one)) for kind, one in spent.items()}
    shares = {kind: seconds / medians[PLAIN] - 1 for kind, seconds in medians.items() if kind != PLAIN}
    share = shares[TRAINING]
    print(f"{count} rollouts of {arguments.tokens} tokens on average, {len(CHANNELS)} channels, contexts of {hidden}")
    for kind, seconds in spent.items():
        spread = f"{seconds.min():.3f} to {seconds.max():.3f}"
        more = f", {shares[kind]:.2%} more" if kind in shares else ""
        print(f"learner step, {kind:30s} {medians[kind]:7.3f} CPU s ({spread}){more}")
    print(f"actor calls in it {1000 * calls:.1f} ms")
    figures = [Figure(f"learner step, {kind}", seconds, "CPU s") for kind, seconds in medians.items()]
    figures += [Figure(f"overhead {kind}", 100 * more, "% of a learner step") for kind, more in shares.items()]
    figures.append(Figure("actor calls of a step", 1000 * calls, "ms"))
    if arguments.run is not None:
        part = learner_share(arguments.run)
        figures.append(Figure("overhead in all", 100 * share * part, "% of a whole step", at_most=100 * LIMIT))
        verdict = "within" if share * part <= LIMIT else "ABOVE"
        print(
            f"the learner takes {part:.0%} of a step of {arguments.run.name}: {share * part:.2%}, {verdict} {LIMIT:.0%}"
        )
    write_figures(arguments.out, "conductor", figures)


if __name__ == "__main__":
    main()
