"""What the Conductor learns on synthetic rollouts: it finds what depends on the context, and when it collapses.

All at the default learning rate, 5e-5, with 200 updates and states of 512 numbers.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from actors.conductor import ConductorActor
from learners.objectives import advantages
from learners.rewards import maths
from learners.rewards.conductor_head import ConductorScalariser, probabilities
from learners.rewards.reward_batch import RewardBatch
from learners.rewards.reward_settings import ConductorSettings

CHANNELS = ("helpful", "short", "polite")
SEEDS = range(5)
GROUPS, SIZE, HIDDEN, UPDATES = 4, 8, 512, 200


class World:
    """Rollouts of two kinds of task. In kind k the outcome follows channel k, with noise; the others say nothing.

    A rollout's channels and outcome are there before any weights are drawn for it, as they are in training.
    """

    def __init__(self, seed: int, means: tuple[float, ...] = (0.0, 0.0, 0.0)) -> None:
        self._generator = torch.Generator().manual_seed(1000 + seed)
        self._means = torch.tensor(means)
        self._played = 0
        self.kinds = torch.randn(2, HIDDEN, generator=self._generator)

    def batch(self) -> RewardBatch:
        groups = torch.arange(GROUPS).repeat_interleave(SIZE)
        kind = groups % 2
        count = len(groups)
        values = torch.randn(count, len(CHANNELS), generator=self._generator)
        self._played += 1
        noise = 0.5 * torch.randn(count, generator=self._generator)
        return RewardBatch(
            names=CHANNELS,
            episode_ids=tuple(f"{self._played}-{index}" for index in range(count)),
            rewards=(values + self._means).double(),
            groups=groups,
            outcome=(values.gather(1, kind[:, None]).squeeze(1) + noise > 0).double(),
            contexts=self.kinds[kind] + 0.5 * torch.randn(count, HIDDEN, generator=self._generator),
        )


def learn(conductor: ConductorActor, config: ConductorSettings, batch: RewardBatch, seed: int) -> None:
    """One learner step: weigh the rollouts, tell the Conductor what that earned."""
    scalarise = ConductorScalariser(conductor.head(), config, advantages.grpo, seed)
    result = scalarise(batch)
    assert batch.contexts is not None and result.choices is not None
    conductor.observe(batch.contexts, result.choices, scalarise.meta_rewards(batch, result.advantages))


def conductor_after(world: World, seed: int, meta_signal: str) -> ConductorActor:
    config = ConductorSettings.model_validate({"meta_signal": meta_signal, "update_every": 1})
    conductor = ConductorActor(CHANNELS, HIDDEN, config)
    for _ in range(UPDATES):
        learn(conductor, config, world.batch(), seed)
    return conductor


def weights_of(conductor: ConductorActor, contexts: Tensor) -> Tensor:
    return probabilities(conductor.head(), contexts)


def entropy(weights: Tensor) -> float:
    return maths.normalised_entropy(weights).mean().item()


@pytest.mark.parametrize("seed", SEEDS)
def test_with_the_outcome_it_finds_the_right_channel_in_both_contexts(seed: int) -> None:
    world = World(seed)
    weights = weights_of(conductor_after(world, seed, "outcome"), world.kinds)
    assert weights[0, 0] > 0.8
    assert weights[1, 1] > 0.8


@pytest.mark.parametrize("seed", SEEDS)
def test_ranks_keep_it_from_collapsing_onto_the_channel_with_the_highest_mean(seed: int) -> None:
    world = World(seed, means=(0.0, 1.0, 3.0))
    assert entropy(weights_of(conductor_after(world, seed, "scalarised"), world.kinds)) > 0.8


@pytest.mark.parametrize("seed", SEEDS[:2])
def test_without_ranks_it_collapses_onto_the_channel_with_the_highest_mean(seed: int) -> None:
    """Why the rule exists. Under raw rewards the rollouts that happen to draw the channel with the highest mean have
    the highest sums of their group, whatever they did: the draw rewards itself, and nothing else is learned."""
    world = World(seed, means=(0.0, 1.0, 3.0))
    config = ConductorSettings(update_every=1)
    conductor = ConductorActor(CHANNELS, HIDDEN, config)
    for _ in range(UPDATES):
        batch = world.batch()
        result = ConductorScalariser(conductor.head(), config, advantages.grpo, seed)(batch)
        assert batch.contexts is not None and result.choices is not None
        earned = advantages.grpo(maths.scalarise(batch.rewards, result.reward_weights), batch.groups)
        conductor.observe(batch.contexts, result.choices, earned)
    weights = weights_of(conductor, world.kinds)
    assert weights[:, 2].min() > 0.9
    assert entropy(weights) < 0.4


@pytest.mark.parametrize("signal", ["scalarised", "outcome"])
def test_the_published_signal_flatters_where_the_outcome_judges(signal: str) -> None:
    """States that betray in which channel a rollout does well: `scalarised` gives each rollout its own best channel,
    whatever that is worth; `outcome` gives it the channel that the outcome follows."""
    world, config = World(0), ConductorSettings.model_validate({"meta_signal": signal, "update_every": 1})
    telling = torch.randn(len(CHANNELS), HIDDEN, generator=torch.Generator().manual_seed(5))

    def batch() -> RewardBatch:
        plain = world.batch()
        assert plain.contexts is not None
        return replace(plain, contexts=plain.contexts + plain.rewards.float() @ telling)

    conductor = ConductorActor(CHANNELS, HIDDEN, config)
    for _ in range(UPDATES):
        learn(conductor, config, batch(), seed=0)
    rows = [batch() for _ in range(20)]
    weights = torch.cat([weights_of(conductor, row.contexts) for row in rows if row.contexts is not None])
    own_best = torch.cat([row.rewards.argmax(1) for row in rows])
    right = torch.cat([row.groups % 2 for row in rows])
    flattered, judged = (weights.gather(1, channel[:, None]).mean().item() for channel in (own_best, right))
    if signal == "scalarised":
        assert flattered > 0.55 and judged < 0.45
    else:
        assert judged > 0.5 and flattered < 0.45


def test_the_bare_outcome_says_nothing_about_the_draw() -> None:
    """Why `outcome` is a product: the outcome is the same whatever was drawn, so its expected gradient is zero."""
    logits = torch.randn(1, 3, dtype=torch.float64, requires_grad=True)
    pi = logits.softmax(1)
    outcome = 1.7
    expected = (pi.detach() * outcome * pi.log()).sum()  # E over a ~ pi of A log pi(a), pi held fixed outside the log
    (gradient,) = torch.autograd.grad(expected, logits)
    assert gradient.abs().max() < 1e-12
