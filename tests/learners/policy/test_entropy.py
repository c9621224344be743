"""Entropies against numpy, and their gradient against finite differences."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from learners.learner_settings import GRPOSettings, OptimizerSettings, PolicySettings, SFTSettings
from learners.objectives.grpo import GRPOObjective
from learners.objectives.objective import Example
from learners.objectives.sft import SFTObjective
from learners.policy import model as model_module
from learners.policy.model import entropy, selective_logprobs, selective_read
from learners.policy.shard import PolicyShard, Term
from tests.learners.samples import make_sequences

ROWS, WIDTH, VOCABULARY = 7, 5, 11


def plain_entropy(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    p = shifted / shifted.sum(1, keepdims=True)
    return -(p * np.log(p)).sum(1)


def inputs(seed: int = 0) -> tuple[Tensor, nn.Linear, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    head = nn.Linear(WIDTH, VOCABULARY, bias=False)
    head.weight.data = torch.randn(VOCABULARY, WIDTH, generator=generator)
    hidden = torch.randn(ROWS, WIDTH, generator=generator, requires_grad=True)
    targets = torch.randint(0, VOCABULARY, (ROWS,), generator=generator)
    return hidden, head, targets, torch.rand(ROWS, generator=generator) + 0.5


@pytest.fixture(params=["at once", "in pieces"])
def pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "in pieces":
        monkeypatch.setattr(model_module, "LOGITS_AT_ONCE", 3 * VOCABULARY)
        monkeypatch.setattr(model_module, "PROBABILITIES_AT_ONCE", 2 * VOCABULARY)


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize("gradient", [False, True])
def test_entropies_are_those_of_the_tempered_distribution(gradient: bool) -> None:
    hidden, head, targets, temperature = inputs()
    _, found = selective_read(hidden, head, targets, temperature, gradient)
    logits = (head(hidden) / temperature[:, None]).detach().double().numpy()
    np.testing.assert_allclose(found.detach().numpy(), plain_entropy(logits), rtol=1e-5)
    assert found.requires_grad == gradient


@pytest.mark.usefixtures("pieces")
def test_the_gradient_is_that_of_finite_differences() -> None:
    logits = torch.randn(ROWS, VOCABULARY, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(ROWS, dtype=torch.float64)
    (weights * entropy(logits.log_softmax(1))).sum().backward()
    values, step = logits.detach().numpy(), 1e-6
    expected = np.zeros_like(values)
    for at in np.ndindex(values.shape):
        up, down = values.copy(), values.copy()
        up[at] += step
        down[at] -= step
        expected[at] = weights[at[0]].item() * (plain_entropy(up) - plain_entropy(down))[at[0]] / (2 * step)
    assert logits.grad is not None
    np.testing.assert_allclose(logits.grad.numpy(), expected, atol=1e-8)


@pytest.mark.usefixtures("pieces")
def test_the_gradient_is_that_of_the_table_too() -> None:
    """Through the softmax alone a constant added to log p would not show."""
    table = torch.randn(ROWS, VOCABULARY, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(entropy, (table,))


def test_a_token_that_is_nearly_certain_has_a_finite_gradient() -> None:
    logits = torch.tensor([[500.0, 0.0, -500.0]], requires_grad=True)
    found = entropy(logits.log_softmax(1))
    found.sum().backward()
    assert found.item() == 0.0
    assert logits.grad is not None and logits.grad.tolist() == [[0.0, 0.0, 0.0]]


@pytest.mark.usefixtures("pieces")
def test_reading_entropies_leaves_log_probabilities_and_their_gradient_alone() -> None:
    gradients = []
    for read in (False, True):
        hidden, head, targets, temperature = inputs()
        columns = (hidden, head, targets, temperature)
        logprobs = selective_read(*columns, False)[0] if read else selective_logprobs(*columns)
        (logprobs * torch.arange(ROWS)).sum().backward()
        gradients.append((logprobs, hidden.grad, head.weight.grad))
    for ours, theirs in zip(*gradients, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("weight", "rises"), [(1.0, True), (0.0, False)])
def test_the_bonus_raises_the_entropy_of_a_policy_that_has_become_sure(
    untied_model: Path, weight: float, rises: bool
) -> None:
    """Nothing but the bonus trains, since all advantages are 0: a bonus of the wrong sign would lower it."""
    optimizer = OptimizerSettings(lr=1e-2, warmup_steps=0)
    shard, sequences = PolicyShard(PolicySettings(model=str(untied_model)), optimizer), make_sequences(4)
    for _ in range(12):
        shard.step([Term(SFTObjective(SFTSettings()), [Example(sequence, 1.0) for sequence in sequences])])
    objective = GRPOObjective(GRPOSettings(entropy_weight=weight))
    terms = [Term(objective, [Example(sequence, 1.0, (0.0,)) for sequence in sequences])]
    shard.enter("sft")
    shard.enter("grpo")
    log = [shard.step(terms) for _ in range(6)]
    first, last = log[0]["grpo/entropy"], log[-1]["grpo/entropy"]
    assert first < 5.0, "SFT made it surer than the uniform distribution, of 5.77 nats"
    assert (last - first > 0.2) if rises else (last == first)
    assert log[0]["grpo/objective"] == pytest.approx(weight * first, rel=1e-5)
    assert log[0]["grpo/loss"] == pytest.approx(-weight * first, rel=1e-5)
