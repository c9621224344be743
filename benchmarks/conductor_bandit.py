"""What the leave-one-out baseline does to the Conductor that learns from the outcome, on synthetic rollouts.

    python -m benchmarks.conductor_bandit --seeds 5

Two worlds. In the first each kind of task has one channel that its outcome follows: the right channel must be found. In
the second the outcome follows all channels alike, so that no weighting is better than another: what moves there is
chance. Printed are the variance of the gradient at the start against its mean's square, and the weights after 200
updates by rate, with and without the baseline; each number is the mean over seeds, with its range.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from actors.conductor import ConductorActor
from learners.objectives import advantages
from learners.rewards import maths
from learners.rewards.conductor_head import ConductorHead, ConductorScalariser, probabilities
from learners.rewards.reward_batch import RewardBatch
from learners.rewards.reward_settings import ConductorSettings

CHANNELS = ("helpful", "short", "polite")
GROUPS, SIZE, HIDDEN, UPDATES = 4, 8, 512, 200
RATES = (5e-5, 5e-4, 5e-3)


class World:
    """Rollouts of two kinds of task. In kind k the outcome follows channel k, with noise; the others say nothing. Where
    all channels are `alike` it follows their sum instead.

    A rollout's channels and outcome are there before any weights are drawn for it, as they are in training.
    """

    def __init__(self, seed: int, means: tuple[float, ...] = (0.0, 0.0, 0.0), alike: bool = False) -> None:
        self._generator = torch.Generator().manual_seed(1000 + seed)
        self._means, self._alike = torch.tensor(means), alike
        self._played = 0
        self.kinds = torch.randn(2, HIDDEN, generator=self._generator)

    def batch(self) -> RewardBatch:
        groups = torch.arange(GROUPS).repeat_interleave(SIZE)
        kind = groups % 2
        count = len(groups)
        values = torch.randn(count, len(CHANNELS), generator=self._generator)
        self._played += 1
        noise = 0.5 * torch.randn(count, generator=self._generator)
        followed = values.sum(1) if self._alike else values.gather(1, kind[:, None]).squeeze(1)
        return RewardBatch(
            names=CHANNELS,
            episode_ids=tuple(f"{self._played}-{index}" for index in range(count)),
            rewards=(values + self._means).double(),
            groups=groups,
            outcome=(followed + noise > 0).double(),
            contexts=self.kinds[kind] + 0.5 * torch.randn(count, HIDDEN, generator=self._generator),
        )


def learn(conductor: ConductorActor, config: ConductorSettings, batch: RewardBatch, seed: int) -> None:
    """One learner step: weigh the rollouts, tell the Conductor what that earned."""
    scalarise = ConductorScalariser(conductor.head(), config, advantages.grpo, seed)
    result = scalarise(batch)
    assert batch.contexts is not None and result.choices is not None
    rows = torch.arange(len(batch.episode_ids))
    conductor.observe(batch.contexts, result.choices, scalarise.meta_rewards(batch, rows, result.advantages))


def conductor_after(world: World, seed: int, meta_signal: str, **settings: Any) -> ConductorActor:
    """What has learned from the world for `UPDATES` steps, an update each."""
    config = ConductorSettings.model_validate({"meta_signal": meta_signal, "update_every": 1, **settings})
    conductor = ConductorActor(CHANNELS, HIDDEN, config)
    for _ in range(UPDATES):
        learn(conductor, config, world.batch(), seed)
    return conductor


def gradient_variance(world: World, seed: int, baseline: str, updates: int = 100) -> tuple[float, float]:
    """(variance, squared mean) of the gradient of an update by the logits of the two kinds, at uniform weights.

    The variance is summed over the six logits; the mean is over so many updates, none of which is taken.
    """
    config = ConductorSettings.model_validate({"meta_signal": "outcome", "baseline": baseline})
    head = ConductorHead(torch.zeros(len(CHANNELS), HIDDEN), torch.zeros(len(CHANNELS)), torch.ones(1))
    scalarise = ConductorScalariser(head, config, advantages.grpo, seed)
    found = torch.stack([_gradient(scalarise, world.batch()) for _ in range(updates)])
    return float(found.var(0).sum()), float(found.mean(0).square().sum())


def _gradient(scalarise: ConductorScalariser, batch: RewardBatch) -> Tensor:
    """1/n sum of m (onehot(a) - pi) over the rollouts of each kind, float64 [6]."""
    result = scalarise(batch)
    assert result.choices is not None and result.probabilities is not None
    earned = scalarise.meta_rewards(batch, torch.arange(len(batch.episode_ids)), result.advantages)
    score = earned[:, None] * (F.one_hot(result.choices, len(CHANNELS)) - result.probabilities)
    return torch.cat([score[batch.groups % 2 == kind].mean(0) for kind in range(2)])


def _spread(values: list[float], digits: int = 2) -> str:
    mean = sum(values) / len(values)
    return f"{mean:.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def _learned(seeds: range, alike: bool, **settings: Any) -> Iterator[Tensor]:
    """Weights float64 [2, K] of both kinds after learning, by seed."""
    for seed in seeds:
        world = World(seed, alike=alike)
        conductor = conductor_after(world, seed, "outcome", **settings)
        yield probabilities(conductor.head(), world.kinds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = range(parser.parse_args().seeds)
    print("| world | baseline | rate | variance / mean² of the gradient | right channel | largest weight | entropy |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for alike in (False, True):
        name = "all channels alike" if alike else "one right channel"
        for baseline in ("none", "leave_one_out"):
            pairs = [gradient_variance(World(seed, alike=alike), seed, baseline) for seed in seeds]
            noise = f"{_spread([v for v, _ in pairs], 4)} / {_spread([m for _, m in pairs], 4)}"
            for rate in RATES:
                weights = list(_learned(seeds, alike, baseline=baseline, lr=rate))
                right = "any" if alike else _spread([float(w.diagonal()[:2].mean()) for w in weights])
                largest = _spread([float(w.max(1).values.mean()) for w in weights])
                even = _spread([float(maths.normalised_entropy(w).mean()) for w in weights])
                print(f"| {name} | {baseline} | {rate:g} | {noise} | {right} | {largest} | {even} |", flush=True)


if __name__ == "__main__":
    main()
