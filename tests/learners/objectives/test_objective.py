"""From advantages of turns to those of tokens, and what an objective makes of its settings."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from learners.learner_settings import GRPOSettings, RampSettings, SFTSettings
from learners.objectives.grpo import GRPOObjective
from learners.objectives.objective import Example, Tokens, token_advantages
from learners.objectives.sft import SFTObjective
from tests.learners.samples import make_sequences
from trajectories.types import Sequence, Turn


def sequence() -> Sequence:
    """Seven tokens: an observation, a turn of two, an observation, a turn of two."""
    row = make_sequences(1)[0]
    trained = [False, True, True, False, False, True, True]
    turns = (Turn(1, 3, 0.0, 1, True), Turn(5, 7, 0.0, 2, True))
    columns = {name: getattr(row, name)[:7].copy() for name in ("token_ids", "trained", "logprobs")}
    columns["trained"][:] = trained
    return replace(row, turns=turns, **columns)


def test_every_trained_token_has_the_advantage_of_its_turn() -> None:
    assert token_advantages(sequence(), (0.5, -2.0)).tolist() == [0.5, 0.5, -2.0, -2.0]


def test_what_is_compared_with_nothing_has_advantage_zero() -> None:
    assert token_advantages(sequence(), ()).tolist() == [0.0] * 4


def test_an_advantage_too_few_is_an_error() -> None:
    with pytest.raises(ValueError, match="shorter"):
        token_advantages(sequence(), (0.5,))


@pytest.mark.parametrize(
    ("aggregation", "expected"), [("token", (1.0, 8.0)), ("sequence", (1 / 16, 0.5)), ("constant", (1 / 40, 0.5))]
)
def test_grpo_averages_as_its_settings_say_and_sft_over_tokens(aggregation: str, expected: tuple) -> None:
    config = GRPOSettings.model_validate({"aggregation": aggregation, "constant_length": 40})
    assert GRPOObjective(config).aggregation(8, whole=16) == pytest.approx(expected)
    assert SFTObjective(SFTSettings()).aggregation(8, whole=16) == (1.0, 8.0)


def test_grpos_loss_is_the_policys_where_the_engine_agrees_plus_divergence_minus_entropy() -> None:
    tokens = Tokens(
        logprobs=torch.tensor([-1.0, -2.0, -0.5]),
        behaviour=torch.tensor([-1.2, -1.0, -0.5]),  # ratios 1.22, 0.37 and 1
        advantages=torch.tensor([1.0, -1.0, 2.0]),
        sequence=torch.tensor([0, 0, 1]),
        reference=torch.tensor([-1.0, -1.5, -1.0]),
        entropy=torch.tensor([0.1, 0.2, 0.3]),
    )
    config = GRPOSettings(kl_weight=0.5, entropy_weight=0.25, icepop_band=(0.5, 2.0), clip_low=0.1, clip_high=0.3)
    found = GRPOObjective(config).token_losses(tokens)
    gap = np.array([0.0, 0.5, -0.5])  # reference - logprobs
    expected = np.array([-np.exp(0.2), 0.0, -2.0]) + 0.5 * (np.exp(gap) - gap - 1) - 0.25 * np.array([0.1, 0.2, 0.3])
    expected[1] = 0.0  # outside the band a token trains nothing at all
    np.testing.assert_allclose(found.loss.numpy(), expected, rtol=1e-5)
    assert found.metrics["masked_fraction"].tolist() == [0.0, 1.0, 0.0]
    assert found.metrics["reference_kl"].numpy() == pytest.approx(np.exp(gap) - gap - 1, rel=1e-5, abs=1e-7)
    assert found.metrics["entropy"] is not None and set(found.metrics) == set(GRPOObjective.metric_names)


STALE = Tokens(
    logprobs=torch.tensor([-1.0, -2.0, -0.5, -3.0]),
    behaviour=torch.tensor([-2.0, -1.0, -0.5, -3.5]),  # ratios 2.72, 0.37, 1 and 1.65
    advantages=torch.tensor([1.0, -1.0, 2.0, 0.5]),
    sequence=torch.tensor([0, 0, 1, 1]),
    entropy=torch.zeros(4),
)


def test_stale_tokens_train_by_how_likely_they_still_are_and_none_is_clipped_for_its_age() -> None:
    """The gradient of the first step from some weights is that of truncated importance sampling (AReaL)."""
    logprobs = STALE.logprobs.clone().requires_grad_()
    tokens = replace(STALE, logprobs=logprobs)
    plain = GRPOObjective(GRPOSettings()).token_losses(tokens)
    assert plain.metrics["clip_fraction"].tolist() == [1.0, 1.0, 0.0, 1.0]
    found = GRPOObjective(GRPOSettings(proximal="batch", ratio_cap=2.0)).token_losses(tokens)
    assert found.metrics["clip_fraction"].tolist() == [0.0] * 4
    found.loss.sum().backward()
    weights = np.minimum(np.exp([1.0, -1.0, 0.0, 0.5]), 2.0)
    assert logprobs.grad is not None
    np.testing.assert_allclose(logprobs.grad.numpy(), -weights * np.array([1.0, -1.0, 2.0, 0.5]), rtol=1e-5)


def test_later_steps_are_clipped_against_the_weights_before_the_first() -> None:
    proximal = np.array([-1.1, -1.0, -0.5, -3.0], np.float32)
    found = GRPOObjective(GRPOSettings(proximal="batch", clip_low=0.2, clip_high=0.28, ratio_cap=2.0)).token_losses(
        replace(STALE, proximal=torch.from_numpy(proximal))
    )
    ratio = np.exp(STALE.logprobs.numpy() - proximal)
    stale = np.minimum(np.exp(proximal - STALE.behaviour.numpy()), 2.0)
    advantages = STALE.advantages.numpy()
    expected = -stale * np.minimum(ratio * advantages, np.clip(ratio, 0.8, 1.28) * advantages)
    np.testing.assert_allclose(found.loss.numpy(), expected, rtol=1e-5)
    assert found.metrics["clip_fraction"].tolist() == [0.0, 1.0, 0.0, 0.0]


def test_a_sequence_that_is_too_far_from_its_policy_does_not_train_at_all() -> None:
    found = GRPOObjective(GRPOSettings(sequence_band=(0.9, 1.1))).token_losses(STALE)
    assert found.metrics["masked_fraction"].tolist() == [0.0, 0.0, 1.0, 1.0], "means of 1 and 1.28"
    assert (found.loss != 0).tolist() == [True, True, False, False]
    with pytest.raises(ValueError, match=r"sequence_band must be \(low <= 1, high >= 1\)"):
        GRPOSettings(sequence_band=(1.1, 1.2))


@pytest.mark.parametrize("advantage", [-1.0, 1.0])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"icepop_band": (0.5, 5.0)},
        {"sequence_band": (0.9, 1.1)},
        {"ratio": "sequence"},
        {"proximal": "batch"},
        {"kl_weight": 0.01},
    ],
)
@pytest.mark.parametrize("told", [-200.0, -math.inf, math.nan])
def test_one_token_of_which_engine_and_learner_think_otherwise_spoils_no_step(
    settings: dict, advantage: float, told: float
) -> None:
    """200 nats are more than float32 can take the exponential of; nan is what vLLM may say of a certain token."""
    logprobs = torch.tensor([-0.1, -0.5], requires_grad=True)
    tokens = Tokens(
        logprobs=logprobs,
        behaviour=torch.tensor([-0.1, told]),
        advantages=torch.full((2,), advantage),
        sequence=torch.tensor([0, 1]),
        reference=torch.tensor([-0.1, -0.5]) if "kl_weight" in settings else None,
        entropy=torch.zeros(2),
    )
    found = GRPOObjective(GRPOSettings.model_validate(settings)).token_losses(tokens)
    found.loss.sum().backward()
    assert logprobs.grad is not None and logprobs.grad.isfinite().all()
    assert logprobs.grad[0] == -advantage
    if "icepop_band" in settings and told == -200.0:
        assert logprobs.grad[1] == 0.0
    assert all(values.isfinite().all() for values in found.metrics.values())


def test_a_step_takes_the_oldest_examples_and_schedules_move_with_the_steps() -> None:
    ramp = RampSettings(start=1.0, end=0.0, steps=4)
    objective = SFTObjective(SFTSettings(max_sequences=2, weight=ramp, lr_scale=ramp))
    examples = [Example(row, 1.0) for row in make_sequences(3)]
    for example in examples:
        objective.add(example)
    assert objective.take() == examples[:2] and objective.queued == 1
    objective.steps = 1
    assert (objective.weight, objective.lr_scale) == (0.75, 0.75)
    again = SFTObjective(SFTSettings())
    again.resume(objective.steps, objective.waiting())
    assert (again.steps, again.take()) == (1, examples[2:])
    assert objective.queued == 1, "to look at a queue takes nothing from it"
    again.restart()
    assert again.steps == 0
