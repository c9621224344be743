"""AdamW's restart and rates, and what it says of signal and noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from learners.learner_settings import GRPOSettings, OptimizerSettings
from learners.policy import optimizer as optimizer_module
from learners.policy.optimizer import PolicyOptimizer, squared_steps, update_signal

SETTINGS = OptimizerSettings(lr=1e-3, warmup_steps=4, max_grad_norm=1e9)


def parameters(*shapes: tuple[int, ...]) -> list[nn.Parameter]:
    return [nn.Parameter(torch.zeros(shape)) for shape in shapes]


def run(optimizer: PolicyOptimizer, weights: list[nn.Parameter], gradients: list[torch.Tensor]) -> dict[str, float]:
    for parameter, gradient in zip(weights, gradients, strict=True):
        parameter.grad = gradient.clone()
    return optimizer.step(1.0, None)


def test_the_signal_of_some_moments_is_that_of_numpy() -> None:
    rng = np.random.default_rng(0)
    m, v = rng.normal(size=(2, 9)), rng.random((2, 9))
    v[0, 3] = m[0, 3] = 0  # never had a gradient: does not count
    step = (m / (1 - 0.9**5)) / np.sqrt(np.where(v > 0, v, 1) / (1 - 0.95**5))
    expected = np.mean([np.sqrt((row[seen] ** 2).mean()) for row, seen in zip(step, v > 0, strict=True)])
    sums = [squared_steps(torch.tensor(a), torch.tensor(b), 5.0, (0.9, 0.95)) for a, b in zip(m, v, strict=True)]
    assert update_signal(torch.stack(sums)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("betas", "noise"), [((0.9, 0.95), 0.226), ((0.9, 0.999), 0.229), ((0.95, 0.999), 0.160)])
def test_noise_gives_what_the_docstring_says(betas: tuple[float, float], noise: float) -> None:
    weights, generator = parameters((100, 160)), torch.Generator().manual_seed(0)
    optimizer = PolicyOptimizer(weights, SETTINGS.model_copy(update={"betas": betas}))
    for _ in range(200):
        metrics = run(optimizer, weights, [torch.randn(100, 160, generator=generator)])
    assert metrics["update_signal"] == pytest.approx(noise, abs=2.5e-3)


def test_the_first_step_and_a_constant_gradient_give_one() -> None:
    weights = parameters((4, 5), (3, 3), (7,))
    optimizer = PolicyOptimizer(weights, SETTINGS)
    gradients = [torch.randn(weight.shape) for weight in weights]
    assert [run(optimizer, weights, gradients)["update_signal"] for _ in range(3)] == pytest.approx([1.0] * 3, rel=1e-4)


def test_a_gradient_that_turns_gives_less_and_a_matrix_without_gradient_does_not_count() -> None:
    weights = parameters((4, 5), (3, 3))
    optimizer = PolicyOptimizer(weights, SETTINGS)
    gradients = [torch.ones(4, 5), torch.zeros(3, 3)]
    run(optimizer, weights, gradients)
    metrics = run(optimizer, weights, [-gradient for gradient in gradients])
    assert metrics["update_signal"] == pytest.approx((0.1 - 0.09) / (1 - 0.9**2), rel=1e-4)


def test_only_a_sample_of_large_matrices_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizer_module, "VALUES_MEASURED", 10)
    monkeypatch.setattr(optimizer_module, "MATRICES_MEASURED", 2)
    seen = []
    monkeypatch.setattr(
        optimizer_module, "squared_steps", lambda m, *rest: (seen.append(len(m)), squared_steps(m, *rest))[1]
    )
    weights = parameters(*[(8, 5)] * 5)
    run(PolicyOptimizer(weights, SETTINGS), weights, [torch.ones(8, 5)] * 5)
    assert seen == [10, 10]


def test_after_a_restart_it_steps_as_a_new_one() -> None:
    old, new = parameters((4, 5), (3,)), parameters((4, 5), (3,))
    ours, theirs = (PolicyOptimizer(weights, SETTINGS) for weights in (old, new))
    generator = torch.Generator().manual_seed(0)
    gradients = [[torch.randn(w.shape, generator=generator) for w in old] for _ in range(5)]
    for step in gradients:
        run(ours, old, step)
    with torch.no_grad():
        for before, after in zip(old, new, strict=True):
            after.copy_(before)
    ours.restart()
    for step in gradients:
        assert run(ours, old, step) == run(theirs, new, step)
    assert all(torch.equal(a, b) for a, b in zip(old, new, strict=True))


def test_a_step_takes_the_rates_it_is_given_and_the_next_those_of_the_settings() -> None:
    weights = parameters((2, 2))
    optimizer = PolicyOptimizer(weights, SETTINGS)
    moments = []
    for betas in ((0.5, 0.75), None):
        weights[0].grad = torch.ones(2, 2)
        optimizer.step(1.0, betas)
        state = optimizer.adam.state[weights[0]]
        moments.append((state["exp_avg"][0, 0].item(), state["exp_avg_sq"][0, 0].item()))
    assert moments[0] == pytest.approx((0.5, 0.25))
    assert moments[1] == pytest.approx((0.9 * 0.5 + 0.1, 0.95 * 0.25 + 0.05))


def test_weight_decay_shrinks_matrices_and_nothing_else() -> None:
    weights = [nn.Parameter(torch.ones(shape)) for shape in ((2, 3), (2, 3, 4), (3,))]
    settings = OptimizerSettings(lr=0.1, weight_decay=0.5, warmup_steps=1)
    run(PolicyOptimizer(weights, settings), weights, [torch.zeros_like(weight) for weight in weights])
    for weight, left in zip(weights, (0.95, 0.95, 1.0), strict=True):
        torch.testing.assert_close(weight.detach(), torch.full_like(weight, left))


@pytest.mark.parametrize("gradient", [1.0, float("nan")])
def test_a_step_leaves_no_gradient_for_the_next_one(gradient: float) -> None:
    weights = parameters((2, 2), (3,))
    try:
        run(PolicyOptimizer(weights, SETTINGS), weights, [torch.full_like(weight, gradient) for weight in weights])
    except FloatingPointError:
        assert np.isnan(gradient)
    assert all(weight.grad is None or not weight.grad.any() for weight in weights)


@pytest.mark.parametrize("betas", [(1.0, 0.9), (0.9, -0.1)])
def test_rates_outside_their_range_are_refused(betas: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="betas"):
        GRPOSettings(betas=betas)
