"""What the Conductor learns on synthetic rollouts: it finds what depends on the context, and when it collapses.

All at the default learning rate, 5e-5, with 200 updates and states of 512 numbers.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from actors.conductor import ConductorActor
from benchmarks.conductor_bandit import CHANNELS, HIDDEN, UPDATES, World, conductor_after, gradient_variance, learn
from learners.objectives import advantages
from learners.rewards import maths
from learners.rewards.conductor_head import ConductorScalariser, probabilities
from learners.rewards.reward_batch import RewardBatch
from learners.rewards.reward_settings import ConductorSettings

SEEDS = range(5)


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


@pytest.mark.parametrize("seed", SEEDS)
def test_where_no_channel_is_better_the_baseline_lets_the_gradient_vary_less(seed: int) -> None:
    plain, baselined = (gradient_variance(World(seed, alike=True), seed, kind) for kind in ("none", "leave_one_out"))
    assert baselined[0] < 0.95 * plain[0]
