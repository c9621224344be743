"""What the Conductor costs, as a share of a GRPO step.

    python -m benchmarks.conductor                        # shares of a learner step alone, measured in the same run
    python -m benchmarks.conductor --step-seconds 8       # shares of a whole step: `step_s` in metrics.jsonl

Per step it takes one `sample` and one `observe` of as many contexts as there are rollouts, and every third `observe` is
an update; measured inline and as a Ray actor, calls included. The contexts are the policy's terminal states: where the
router probes gradients they come with the probe, else from a forward pass over the rollouts, which is measured too.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Callable

import numpy as np
import ray
import torch
from transformers import AutoConfig

from actors.conductor import Conductor, ConductorActor, ConductorScalariser, RemoteConductor, start_conductor
from learners.config import LearnerConfig, OptimizerConfig, PolicyConfig
from learners.contexts import terminal_states
from learners.reward_batch import RewardBatch
from learners.reward_config import ConductorConfig
from learners.worker import LearnerWorker
from trajectories import schema
from trajectories.types import Assignment, Route, Sequence

CHANNELS = ("success", "progress", "format", "action_validity", "efficiency")
LIMIT = 0.03


def reward_batch(groups: int, size: int, contexts: torch.Tensor) -> RewardBatch:
    """Random rewards for rollouts with these contexts."""
    values = torch.rand(groups * size, len(CHANNELS), dtype=torch.float64)
    return RewardBatch(
        names=CHANNELS,
        episode_ids=tuple(f"e-{index}" for index in range(groups * size)),
        rewards=values,
        groups=torch.arange(groups).repeat_interleave(size),
        outcome=values[:, 0],
        contexts=contexts,
    )


def rollouts(count: int, tokens: int, vocabulary: int) -> list[Sequence]:
    """Random transcripts of which a quarter is trained, as in household games."""
    generator = np.random.default_rng(0)
    return [
        Sequence(
            sequence_id=str(index),
            episode_id=f"e-{index}",
            group_id="g",
            token_ids=generator.integers(3, vocabulary, tokens).astype(np.int32),
            trained=np.arange(tokens) % 4 == 3,
            logprobs=np.where(np.arange(tokens) % 4 == 3, -2.0, 0.0).astype(np.float32),
            turns=(),
            version_spans=(),
            temperature=1.0,
        )
        for index in range(count)
    ]


def median_seconds(run: Callable[[], object], repeats: int, warm_up: int) -> float:
    """Median of `repeats` runs after some that do not count."""
    seconds = []
    for _ in range(warm_up + repeats):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds[warm_up:]))


def conductor_seconds(conductor: Conductor, config: ConductorConfig, batch: RewardBatch, steps: int) -> float:
    """Mean seconds a step, updates included: the median of rounds of `update_every` steps, divided."""
    scalariser = ConductorScalariser(conductor, config)

    def round_of_steps() -> None:
        for _ in range(config.update_every):
            scalariser(batch)

    return median_seconds(round_of_steps, steps // config.update_every, warm_up=3) / config.update_every


def remote_seconds(hidden: int, config: ConductorConfig, batch: RewardBatch, steps: int) -> float:
    """The same through a Ray actor of its own."""
    with tempfile.TemporaryDirectory(prefix="concerto-ray-") as folder:
        ray.init(num_cpus=2, include_dashboard=False, _temp_dir=folder, log_to_driver=False)
        try:
            handle = start_conductor(CHANNELS, hidden, config, 0, {"num_cpus": 0.1})
            return conductor_seconds(RemoteConductor(handle, timeout_s=120), config, batch, steps)
        finally:
            ray.shutdown()


def learner_seconds(model: str, sequences: list[Sequence]) -> tuple[float, float]:
    """(a GRPO step, a pass for the terminal states) of these rollouts."""
    config = LearnerConfig(policy=PolicyConfig(model=model), optimizer=OptimizerConfig(token_budget=4096))
    worker = LearnerWorker(config)
    tables = (
        schema.sequences_to_table(sequences),
        schema.assignments_to_table(
            Assignment(s.sequence_id, Route.GRPO, 1.0 - index % 2 * 2.0, 1.0, 0.0, {})
            for index, s in enumerate(sequences)
        ),
    )
    step = median_seconds(lambda: worker.train("grpo", *tables), repeats=3, warm_up=1)
    states = median_seconds(lambda: terminal_states(worker.policy.model, sequences, 4096), repeats=3, warm_up=1)
    return step, states


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="learners/tiny/model", help="policy; its hidden size is the context's")
    parser.add_argument("--groups", type=int, default=4, help="groups a step; 4 in the local preset")
    parser.add_argument("--size", type=int, default=8, help="rollouts a group; 8 in the local preset")
    parser.add_argument("--tokens", type=int, default=550, help="tokens of a rollout")
    parser.add_argument("--steps", type=int, default=60, help="Conductor steps to measure")
    parser.add_argument("--step-seconds", type=float, help="length of a whole step; default: a learner step, measured")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(1)
    torch.manual_seed(0)

    count = arguments.groups * arguments.size
    sequences = rollouts(count, arguments.tokens, vocabulary=1000)
    step, states = learner_seconds(arguments.model, sequences)
    hidden = AutoConfig.from_pretrained(arguments.model).hidden_size
    batch = reward_batch(arguments.groups, arguments.size, torch.randn(count, hidden))
    config = ConductorConfig()
    inline = conductor_seconds(ConductorActor(CHANNELS, hidden, config), config, batch, arguments.steps)
    remote = remote_seconds(hidden, config, batch, arguments.steps)

    whole = arguments.step_seconds or step
    print(f"{count} rollouts of {arguments.tokens} tokens, {len(CHANNELS)} channels, contexts of {hidden}")
    print(f"a learner step takes {step:.3f} s; shares are of {whole:.3f} s")
    for name, seconds in (
        ("Conductor inline", inline),
        ("Conductor as an actor", remote),
        ("terminal states, forward pass", states),
        ("actor + forward pass", remote + states),
    ):
        verdict = "within" if seconds / whole <= LIMIT else "ABOVE"
        print(f"{name:30s} {1000 * seconds:8.2f} ms a step  {seconds / whole:7.2%}  {verdict} {LIMIT:.0%}")


if __name__ == "__main__":
    main()
