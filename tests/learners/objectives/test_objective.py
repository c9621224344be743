"""From advantages of turns to those of tokens, and what an objective makes of its settings."""

from __future__ import annotations

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
    ("aggregation", "expected"), [("token", (1.0, 8.0)), ("sequence", (1 / 8, 1.0)), ("constant", (1 / 40, 1.0))]
)
def test_grpo_averages_as_its_settings_say_and_sft_over_tokens(aggregation: str, expected: tuple) -> None:
    config = GRPOSettings.model_validate({"aggregation": aggregation, "constant_length": 40})
    assert GRPOObjective(config).aggregation(8) == pytest.approx(expected)
    assert SFTObjective(SFTSettings()).aggregation(8) == (1.0, 8.0)


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
    np.testing.assert_allclose(found.loss.numpy(), expected, rtol=1e-5)
    assert found.metrics["masked_fraction"].tolist() == [0.0, 1.0, 0.0]
    assert found.metrics["reference_kl"].numpy() == pytest.approx(np.exp(gap) - gap - 1, rel=1e-5, abs=1e-7)
    assert found.metrics["entropy"] is not None and set(found.metrics) == set(GRPOObjective.metric_names)


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
