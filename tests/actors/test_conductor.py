"""The Conductor in the loop: buffer, versions, checkpoint, alarm, and the scalariser that asks it."""

from __future__ import annotations

import logging
import pickle
from dataclasses import replace
from typing import Any

import pytest
import ray
import torch

from actors.conductor import (
    ALARM_UPDATES,
    ConductorActor,
    ConductorError,
    ConductorScalariser,
    RemoteConductor,
    start_conductor,
)
from learners import advantages, rewards
from learners.reward_batch import RewardBatch
from learners.reward_config import ConductorConfig
from learners.rewards import RewardError
from learners.scalarisers import reward_metrics

CHANNELS = ("success", "progress", "format")
HIDDEN = 16


def actor(seed: int = 0, channels: tuple[str, ...] = CHANNELS, hidden: int = HIDDEN, **settings: Any) -> ConductorActor:
    return ConductorActor(channels, hidden, ConductorConfig(lr=0.01, **settings), seed)


def batch(seed: int = 0, groups: int = 2, size: int = 4) -> RewardBatch:
    generator = torch.Generator().manual_seed(seed)
    count = groups * size
    values = torch.rand(count, len(CHANNELS), generator=generator).double()
    return RewardBatch(
        names=CHANNELS,
        episode_ids=tuple(f"e-{index}" for index in range(count)),
        rewards=values,
        groups=torch.arange(groups).repeat_interleave(size),
        outcome=values[:, 0],
        contexts=torch.randn(count, HIDDEN, generator=generator),
    )


def equal(left: Any, right: Any) -> bool:
    """Deep and exact."""
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(equal(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(equal(a, b) for a, b in zip(left, right, strict=True))
    same = left == right
    return bool(same if isinstance(same, bool) else same.all())


def test_it_learns_every_m_steps_and_then_forgets() -> None:
    conductor = actor(update_every=3)
    contexts = batch().contexts
    assert contexts is not None
    before = conductor.weights(contexts)
    versions, updates = [], []
    for step in range(7):
        draw = conductor.sample(contexts)
        versions.append(draw.version)
        earned = torch.ones(len(contexts)) * (draw.choices == 1) + step
        updates.append(conductor.observe(contexts, draw.choices, earned))
    assert versions == [0, 0, 0, 1, 1, 1, 2]
    assert [bool(metrics) for metrics in updates] == [False, False, True, False, False, True, False]
    assert len(conductor.state()["buffer"]) == 1
    assert not torch.equal(conductor.weights(contexts), before)
    assert updates[2].keys() == {
        f"conductor/{name}"
        for name in ("loss", "temperature", "version", "entropy", *(f"{channel}/weight" for channel in CHANNELS))
    }


def test_one_update_takes_all_buffered_rollouts_at_once() -> None:
    one, three = actor(update_every=1), actor(update_every=3)
    steps = [batch(seed) for seed in range(3)]
    choices = [torch.randint(3, (8,)) for _ in steps]
    earned = [torch.randn(8) for _ in steps]
    for step, choice, value in zip(steps, choices, earned, strict=True):
        three.observe(step.contexts, choice, value)
    one.observe(torch.cat([step.contexts for step in steps]), torch.cat(choices), torch.cat(earned))
    assert torch.equal(one.weights(steps[0].contexts), three.weights(steps[0].contexts))


def test_choices_follow_the_weights() -> None:
    conductor = actor()
    contexts = torch.randn(1, HIDDEN).expand(4000, HIDDEN)
    for _ in range(30):
        draw = conductor.sample(contexts[:64])
        conductor.observe(contexts[:64], draw.choices, (draw.choices == 2).double())
    draw = conductor.sample(contexts)
    shares = torch.bincount(draw.choices, minlength=3) / 4000
    assert draw.probabilities[0, 2] > 0.4
    torch.testing.assert_close(shares.double(), draw.probabilities[0], atol=0.03, rtol=0)


def test_a_restored_conductor_goes_on_bit_for_bit() -> None:
    def run(conductor: ConductorActor, steps: range) -> list[Any]:
        scalariser = ConductorScalariser(conductor, ConductorConfig())
        results = [scalariser(batch(step)) for step in steps]
        return [[result.choices, result.weights, result.advantages, dict(result.metrics)] for result in results]

    first = actor(seed=3)
    run(first, range(5))  # one update, two steps in the buffer
    saved = pickle.loads(pickle.dumps(first.state()))
    second = actor(seed=99)
    run(second, range(12))  # ahead of what it goes back to
    second.restore(saved)
    assert equal(second.state(), saved)
    assert equal(run(first, range(5, 12)), run(second, range(5, 12)))
    assert equal(first.state(), second.state())
    assert not equal(first.state(), saved)


def test_a_state_of_another_run_is_refused() -> None:
    saved = actor().state()
    for other in (actor(channels=("success", "score", "format")), actor(hidden=8)):
        with pytest.raises(RewardError, match="the saved Conductor weighs success, progress, format by 16 numbers"):
            other.restore(saved)


def test_the_alarm_rings_once_when_a_channel_keeps_the_weight(caplog: pytest.LogCaptureFixture) -> None:
    conductor = actor(update_every=1, entropy_weight=0.0)
    learned = conductor.state()
    learned["learner"]["rl_module"]["default_policy"]["bias"][:] = [0.0, 9.0, 0.0]
    conductor.restore(learned)
    contexts, still = torch.randn(4, HIDDEN), torch.zeros(4)
    with caplog.at_level(logging.WARNING, logger="actors.conductor"):
        for _ in range(ALARM_UPDATES - 1):
            conductor.observe(contexts, still.long(), still)
        assert not caplog.records
        for _ in range(5):
            conductor.observe(contexts, still.long(), still)
    assert len(caplog.records) == 1
    assert "reward channel progress has held more than 0.95 of the weight for 20 updates" in caplog.text


def test_it_refuses_what_it_cannot_read() -> None:
    conductor = actor()
    with pytest.raises(RewardError, match=r"contexts are \[2, 5\], this Conductor reads \[n, 16\]"):
        conductor.sample(torch.zeros(2, 5))
    with pytest.raises(RewardError, match="a meta-reward is not finite"):
        conductor.observe(torch.zeros(2, HIDDEN), torch.zeros(2).long(), torch.tensor([0.0, float("nan")]))


class Recorder:
    """Draws channel 1 always and keeps what it observes."""

    def __init__(self) -> None:
        self.inner = actor()

    def sample(self, contexts: torch.Tensor) -> Any:
        draw = self.inner.sample(contexts)
        return replace(draw, choices=torch.ones_like(draw.choices))

    def observe(self, contexts: torch.Tensor, choices: torch.Tensor, meta_rewards: torch.Tensor) -> dict[str, float]:
        self.observed = contexts, choices, meta_rewards
        return {"conductor/loss": 0.5}


@pytest.mark.parametrize("signal", ["scalarised", "outcome"])
@pytest.mark.parametrize("weight_map", ["emphasis", "onehot", "uniform_boost"])
def test_rollouts_are_trained_under_the_weights_drawn_for_them(signal: str, weight_map: str) -> None:
    config = ConductorConfig.model_validate({"meta_signal": signal, "weight_map": weight_map, "beta": 0.4})
    conductor, rows = Recorder(), batch()
    result = ConductorScalariser(conductor, config)(rows)
    share = {"emphasis": 0.6 / 3, "onehot": 0.0, "uniform_boost": 0.6 / 3}[weight_map]
    top = {"emphasis": 0.6, "onehot": 1.0, "uniform_boost": 0.6}[weight_map]
    torch.testing.assert_close(result.weights[0], torch.tensor([share, top, share]).double(), atol=1e-6, rtol=0)
    ranks = rewards.rank_normalise(rows.rewards, rows.groups)
    expected = advantages.grpo((result.weights * ranks).sum(1), rows.groups)
    torch.testing.assert_close(result.advantages, expected)
    meta = expected if signal == "scalarised" else expected * advantages.grpo(rows.outcome, rows.groups)
    assert torch.equal(conductor.observed[2], meta)
    metrics = reward_metrics(rows, result)
    assert metrics["reward/progress/sampled"] == 1.0
    assert metrics["reward/entropy"] == pytest.approx(1.0)
    assert metrics["conductor/loss"] == 0.5


def test_contexts_must_be_there_for_every_episode() -> None:
    scalariser = ConductorScalariser(actor(), ConductorConfig())
    rows = batch()
    assert rows.contexts is not None
    for contexts, count in ((None, 0), (rows.contexts[:-1], 7)):
        with pytest.raises(RewardError, match=f"has {count} contexts for 8 episodes, the first of which is e-0"):
            scalariser(replace(rows, contexts=contexts))


@pytest.mark.real
@pytest.mark.usefixtures("ray_session")
def test_in_another_process_it_answers_as_inline() -> None:
    config = ConductorConfig(lr=0.01)
    handle = start_conductor(CHANNELS, HIDDEN, config, 7, {"name": "concerto:test:conductor", "num_cpus": 0.1})
    try:
        with pytest.raises(ConductorError, match="has not answered 'sample' within 0 s"):
            RemoteConductor(handle, timeout_s=0)._answer("sample", torch.zeros(1, HIDDEN))
        handle_state = ray.get(handle.state.remote(), timeout=120)
        inline = ConductorActor(CHANNELS, HIDDEN, config, 8)
        inline.restore(handle_state)
        remote = ConductorScalariser(RemoteConductor(handle), config)
        here = ConductorScalariser(inline, config)
        for step in range(4):
            ours, theirs = here(batch(step)), remote(batch(step))
            assert torch.equal(ours.advantages, theirs.advantages)
            assert equal(dict(ours.metrics), dict(theirs.metrics))
        assert equal(ray.get(handle.state.remote(), timeout=60), inline.state())
    finally:
        ray.kill(handle)
