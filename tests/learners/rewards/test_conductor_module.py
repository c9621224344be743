"""The Conductor's RLlib module and learner: probabilities, gradients, the optimiser step, saved state."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from learners.rewards import conductor_head, conductor_module
from learners.rewards.reward_settings import ConductorSettings

HIDDEN, CHANNELS, ENTROPY_WEIGHT = 12, 4, 0.3
KEY = "default_policy"


def learner(**settings: Any) -> Any:
    return conductor_module.build_learner(
        HIDDEN, CHANNELS, ConductorSettings(entropy_weight=ENTROPY_WEIGHT, **settings)
    )


def parameters(of: Any) -> dict[str, Tensor]:
    return dict(of.module[KEY].named_parameters())


def weights(of: Any, contexts: Tensor) -> Tensor:
    return conductor_head.probabilities(conductor_module.head(of, version=0), contexts)


def disturb(of: Any, seed: int = 0, temperature: float = 0.7) -> None:
    """Leave the uniform start, where many gradients are zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in parameters(of).items():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
            if name == "temperature":
                parameter.fill_(temperature)


def experience(seed: int = 0, count: int = 9) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        5 * torch.randn(count, HIDDEN, generator=generator) + 2,
        torch.randint(CHANNELS, (count,), generator=generator),
        torch.randn(count, generator=generator),
    )


def reference_loss(weights: dict[str, Tensor], contexts: Tensor, choices: Tensor, earned: Tensor) -> Tensor:
    """-1/n sum [A log pi(a|h) + lambda H], rollout by rollout, channel by channel, in float64."""
    total = torch.zeros((), dtype=torch.float64)
    for context, choice, advantage in zip(contexts.double(), choices.tolist(), earned.tolist(), strict=True):
        centred = context - context.mean()
        state = centred / ((centred**2).mean() + 1e-5).sqrt()
        scores = [
            ((weights["weight"][k] * state).sum() + weights["bias"][k]) / weights["temperature"][0]
            for k in range(CHANNELS)
        ]
        normaliser = sum(score.exp() for score in scores)
        pi = [1e-4 + (1 - CHANNELS * 1e-4) * score.exp() / normaliser for score in scores]
        entropy = -sum(p * p.log() for p in pi)
        total = total - (advantage * pi[choice].log() + ENTROPY_WEIGHT * entropy)
    return total / len(contexts)


def reference_weights(of: Any) -> dict[str, Tensor]:
    return {name: value.detach().double().requires_grad_() for name, value in parameters(of).items()}


def test_gradients_equal_those_of_a_hand_written_loss() -> None:
    ours = learner()
    disturb(ours)
    contexts, choices, earned = experience()
    batch = {KEY: {"obs": contexts, "actions": choices, "advantages": earned}}
    output = ours.module.forward_train(batch)
    losses = ours.compute_losses(fwd_out=output, batch=batch)
    gradients = ours.compute_gradients(losses)

    weights = reference_weights(ours)
    expected = reference_loss(weights, contexts, choices, earned)
    expected.backward()
    assert losses[KEY].item() == pytest.approx(expected.item(), rel=1e-5)
    for name, parameter in parameters(ours).items():
        gradient = weights[name].grad
        assert gradient is not None and gradient.abs().max() > 1e-3, name
        torch.testing.assert_close(gradients[parameter].double(), gradient, atol=1e-6, rtol=1e-4)


def test_the_head_is_a_copy_that_later_updates_leave_alone() -> None:
    ours = learner(lr=0.01)
    disturb(ours)
    before = conductor_module.head(ours, version=4)
    contexts = experience()[0]
    expected = conductor_head.probabilities(before, contexts)
    conductor_module.update(ours, *experience())
    assert before.version == 4
    assert torch.equal(conductor_head.probabilities(before, contexts), expected)
    assert not torch.equal(weights(ours, contexts), expected)


def test_updates_are_steps_of_adamw_on_that_loss() -> None:
    ours = learner(lr=0.01)
    disturb(ours)
    weights = reference_weights(ours)
    optimizer = torch.optim.AdamW(
        [{"params": [weights["weight"]], "weight_decay": 0.01},
         {"params": [weights["bias"], weights["temperature"]], "weight_decay": 0.0}], lr=0.01,
    )  # fmt: skip
    for step in range(4):
        loss = reference_loss(weights, *experience(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        metrics = conductor_module.update(ours, *experience(step))
        assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-4)
    for name, parameter in parameters(ours).items():
        torch.testing.assert_close(parameter.double(), weights[name], atol=1e-4, rtol=1e-4)


def test_a_channel_on_the_floor_can_come_back() -> None:
    ours = learner(lr=0.3)
    with torch.no_grad():
        parameters(ours)["bias"][0] = -12.0
    contexts = experience()[0]
    assert weights(ours, contexts)[:, 0].max().item() == pytest.approx(conductor_head.FLOOR, rel=0.1)
    chosen = torch.zeros(len(contexts), dtype=torch.int64)
    for _ in range(150):
        conductor_module.update(ours, contexts, chosen, torch.ones(len(contexts)))
    assert weights(ours, contexts)[:, 0].min() > 0.5


def test_the_start_is_uniform_and_blind_to_the_scale_of_a_state() -> None:
    fresh, contexts = learner(), experience()[0]
    np.testing.assert_allclose(weights(fresh, contexts).numpy(), 1 / CHANNELS, atol=1e-7)
    disturb(fresh)
    scaled = weights(fresh, 100 * contexts + 7)
    torch.testing.assert_close(scaled, weights(fresh, contexts), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("start", "sign", "edge"), [(0.31, 1.0, 0.3), (2.99, -1.0, 3.0)])
def test_the_temperature_stays_in_its_range(start: float, sign: float, edge: float) -> None:
    ours = learner(lr=0.1)
    disturb(ours, temperature=start)
    contexts = experience()[0]
    best = weights(ours, contexts).argmax(1)
    metrics = [conductor_module.update(ours, contexts, best, torch.full((len(contexts),), sign)) for _ in range(3)]
    assert min(abs(m["temperature"] - edge) for m in metrics) < 1e-6
    assert all(0.3 - 1e-6 <= m["temperature"] <= 3.0 + 1e-6 for m in metrics)


def test_a_restored_learner_goes_on_bit_for_bit() -> None:
    first, second = learner(lr=0.01), learner(lr=0.01)
    for step in range(3):
        conductor_module.update(first, *experience(step))
    second.set_state(first.get_state(not_components="metrics_logger"))
    for step in range(3, 6):
        assert conductor_module.update(first, *experience(step)) == conductor_module.update(second, *experience(step))
    for name, parameter in parameters(first).items():
        assert torch.equal(parameter, parameters(second)[name]), name


def test_building_and_updating_leave_global_random_states_alone() -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    expected = torch.rand(1), np.random.rand()
    torch.manual_seed(5)
    np.random.seed(5)
    conductor_module.update(learner(), *experience())
    assert (torch.rand(1), np.random.rand()) == expected


def test_nobody_pays_for_rllib_before_a_conductor_is_built() -> None:
    modules = "learners.rewards.conductor_head, learners.rewards.reward_settings, actors.conductor"
    code = f"import sys, {modules}; sys.exit('ray.rllib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_entropy_bonus_alone_drives_back_to_uniform() -> None:
    ours = learner(lr=0.05)
    disturb(ours)
    contexts, choices, _ = experience()
    for _ in range(200):
        conductor_module.update(ours, contexts, choices, torch.zeros(len(contexts)))
    entropy = -(p := weights(ours, contexts)).mul(p.log()).sum(1)
    assert entropy.min().item() > 0.95 * math.log(CHANNELS)
