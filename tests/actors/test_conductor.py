"""The Conductor in the loop: buffer, versions, checkpoint, alarm, and its life in a process of its own."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch

from actors.conductor import ALARM_UPDATES, ConductorActor, RemoteConductor, alarm, start_conductor
from learners.objectives import advantages
from learners.rewards.conductor_head import ConductorScalariser, probabilities
from learners.rewards.reward_settings import ConductorSettings
from tests.learners.rewards.test_conductor_head import CHANNELS, HIDDEN, batch
from trajectories.errors import UserError, WorkersLost
from trajectories.state_files import read_state, write_state


def actor(channels: tuple[str, ...] = CHANNELS, hidden: int = HIDDEN, **settings: Any) -> ConductorActor:
    return ConductorActor(channels, hidden, ConductorSettings(lr=0.01, **settings))


def step(conductor: ConductorActor, number: int, config: ConductorSettings) -> list[Any]:
    """One learner step on random rollouts, and what came of it."""
    scalarise, rows = ConductorScalariser(conductor.head(), config, advantages.grpo), batch(number)
    result = scalarise(rows)
    assert rows.contexts is not None and result.choices is not None
    earned = scalarise.meta_rewards(rows, torch.arange(len(rows.episode_ids)), result.advantages)
    return [result.choices, result.reward_weights, earned, conductor.observe(rows.contexts, result.choices, earned)]


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
    before = conductor.head()
    versions, updates = [], []
    for number in range(7):
        versions.append(conductor.head().version)
        choices = torch.arange(len(contexts)) % 3
        updates.append(conductor.observe(contexts, choices, torch.ones(len(contexts)) * (choices == 1) + number))
    assert versions == [0, 0, 0, 1, 1, 1, 2]
    assert [bool(metrics) for metrics in updates] == [False, False, True, False, False, True, False]
    assert len(conductor.state()["buffer"]) == 1
    assert not torch.equal(conductor.head().weight, before.weight)
    assert updates[2].keys() == {
        f"conductor/{name}"
        for name in ("loss", "temperature", "version", "entropy", "held", *(f"{name}/weight" for name in CHANNELS))
    }


def test_one_update_takes_all_buffered_rollouts_at_once() -> None:
    one, three = actor(update_every=1), actor(update_every=3)
    contexts = [contexts for seed in range(3) if (contexts := batch(seed).contexts) is not None]
    choices = [torch.randint(3, (8,)) for _ in contexts]
    earned = [torch.randn(8) for _ in contexts]
    for states, choice, value in zip(contexts, choices, earned, strict=True):
        three.observe(states, choice, value)
    one.observe(torch.cat(contexts), torch.cat(choices), torch.cat(earned))
    assert torch.equal(one.head().weight, three.head().weight)


def test_it_moves_towards_what_earns() -> None:
    conductor = actor(update_every=1)
    contexts = torch.randn(1, HIDDEN).expand(64, HIDDEN)
    choices = torch.arange(64) % 3
    for _ in range(30):
        conductor.observe(contexts, choices, (choices == 2).double() - 1 / 3)
    assert probabilities(conductor.head(), contexts)[:, 2].min() > 0.4


def test_a_restored_conductor_goes_on_bit_for_bit(tmp_path: Path) -> None:
    def run(conductor: ConductorActor, steps: range) -> list[Any]:
        return [step(conductor, number, ConductorSettings()) for number in steps]

    first = actor()
    run(first, range(5))  # one update, two steps in the buffer
    write_state(tmp_path / "state", first.state())
    saved = read_state(tmp_path / "state")
    second = actor()
    run(second, range(12))  # ahead of what it goes back to
    second.restore(saved)
    assert equal(second.state(), saved)
    assert equal(run(first, range(5, 12)), run(second, range(5, 12)))
    assert equal(first.state(), second.state())
    assert not equal(first.state(), saved)


def test_a_state_of_another_run_is_refused() -> None:
    saved = actor().state()
    for other in (actor(channels=("success", "score", "format")), actor(hidden=8)):
        with pytest.raises(UserError, match="the saved Conductor weighs success, progress, format by 16 numbers"):
            other.restore(saved)


def test_the_alarm_rings_once_when_a_channel_keeps_the_weight() -> None:
    conductor = actor(update_every=1, entropy_weight=0.0)
    learned = conductor.state()
    learned["learner"]["rl_module"]["default_policy"]["bias"][:] = [0.0, 9.0, 0.0]
    conductor.restore(learned)
    contexts, still = torch.randn(4, HIDDEN), torch.zeros(4)
    rung = [alarm(conductor.observe(contexts, still.long(), still)) for _ in range(ALARM_UPDATES + 5)]
    (line,) = (text for text in rung if text is not None)
    assert rung[ALARM_UPDATES - 1] == line
    assert line.startswith("reward channel progress has held more than 0.95 of the weight for 20 updates (now ")


def test_it_refuses_what_it_cannot_read() -> None:
    conductor = actor()
    with pytest.raises(UserError, match=r"contexts are \[2, 5\], this Conductor reads \[n, 16\]"):
        conductor.observe(torch.zeros(2, 5), torch.zeros(2).long(), torch.zeros(2))
    with pytest.raises(UserError, match="a meta-reward is not finite"):
        conductor.observe(torch.zeros(2, HIDDEN), torch.zeros(2).long(), torch.tensor([0.0, float("nan")]))


@pytest.mark.real
@pytest.mark.usefixtures("ray_session")
async def test_in_another_process_it_learns_as_inline(caplog: pytest.LogCaptureFixture) -> None:
    config = ConductorSettings(lr=0.01)
    handle = start_conductor(CHANNELS, HIDDEN, config, {"name": "concerto:test:conductor", "num_cpus": 0.1})
    remote, inline = RemoteConductor(handle), ConductorActor(CHANNELS, HIDDEN, config)
    try:
        with pytest.raises(WorkersLost, match="has not answered 'head' within 0 s"):
            await RemoteConductor(handle, timeout_s=0).head()
        for number in range(4):
            *experience, metrics = step(inline, number, config)
            rows = batch(number)
            assert rows.contexts is not None
            assert await remote.observe(rows.contexts, experience[0], experience[2]) == metrics
        assert equal(await remote.state(), inline.state())
        assert torch.equal((await remote.head()).weight, inline.head().weight)
        await remote.restore(ConductorActor(CHANNELS, HIDDEN, config).state())
        assert (await remote.head()).version == 0
        # RLlib tells of its own past once a process, whoever is first.
        assert not [record for record in caplog.records if not record.name.startswith("ray.")]
    finally:
        remote.stop()
    with pytest.raises(WorkersLost, match="the Conductor died, and with it what it learned"):
        for _ in range(100):  # a kill takes a moment
            await remote.head()
            await asyncio.sleep(0.1)
