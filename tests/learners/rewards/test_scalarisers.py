"""Scalarisers: what each makes of one batch, and how a batch comes from a table."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from learners.learner_settings import GRPOSettings
from learners.objectives import advantages
from learners.objectives.assign import scalarised_assignments
from learners.rewards import maths
from learners.rewards.reward_batch import ConstantWatch, RewardBatch, reward_batch
from learners.rewards.reward_settings import RewardSettings
from learners.rewards.scalarisers import (
    GDPO,
    Advantage,
    Random,
    Single,
    Static,
    Uniform,
    channel_metrics,
    pure_scalariser,
    reward_weight_metrics,
)
from tests.learners.objectives.test_assign import trajectory
from trajectories import schema
from trajectories.errors import UserError
from trajectories.types import StopReason, Turn


def batch(rows: list[tuple[float, float]], groups: list[int] | None = None) -> RewardBatch:
    """Channels `success` and `progress`."""
    values = torch.tensor(rows, dtype=torch.float64)
    return RewardBatch(
        names=("success", "progress"),
        episode_ids=tuple(f"e-{index}" for index in range(len(rows))),
        rewards=values,
        groups=torch.tensor(groups or [0] * len(rows)),
        outcome=values[:, 0],
    )


FOUR = batch([(1.0, 0.2), (0.0, 0.9), (0.0, 0.1), (0.0, 0.5)])


def test_single_is_plain_grpo() -> None:
    result = Single("success")(FOUR)
    assert result.advantages.tolist() == pytest.approx([1.5, -0.5, -0.5, -0.5], abs=1e-5)
    assert result.reward_weights.tolist() == [[1.0, 0.0]] * 4


def test_uniform_averages_the_ranks() -> None:
    result = Uniform()(FOUR)
    # success 1, 1/3, 1/3, 1/3 (three tie); progress 1/3, 1, 0, 2/3
    assert result.rewards.tolist() == pytest.approx([2 / 3, 2 / 3, 1 / 6, 1 / 2])
    torch.testing.assert_close(result.advantages, advantages.grpo(result.rewards, FOUR.groups))


def test_static_weighs_by_name_and_raw_rewards_if_asked() -> None:
    result = Static({"progress": 2.0}, maths.NORMALISATIONS["none"])(FOUR)
    assert result.rewards.tolist() == pytest.approx([0.4, 1.8, 0.2, 1.0])
    with pytest.raises(UserError, match="'score' has a weight but is missing in episode e-0"):
        Static({"score": 1.0})(FOUR)


def test_random_weights_are_a_function_of_seed_and_episode() -> None:
    first, again, other = Random(1)(FOUR), Random(1)(FOUR), Random(2)(FOUR)
    assert torch.equal(first.reward_weights, again.reward_weights)
    assert not torch.equal(first.reward_weights, other.reward_weights)
    np.testing.assert_allclose(first.reward_weights.sum(1).numpy(), 1.0)
    swapped = replace(FOUR, episode_ids=FOUR.episode_ids[::-1])
    assert torch.equal(Random(1)(swapped).reward_weights, first.reward_weights.flip(0))
    many = batch([(0.0, 0.0)] * 2000)
    np.testing.assert_allclose(Random(0)(many).reward_weights.mean(0).numpy(), 0.5, atol=0.02)  # uniform on the simplex


def test_gdpo_keeps_apart_what_a_sum_hides() -> None:
    two = batch([(1.0, 0.0), (0.0, 1.0), (0.0, 0.0), (0.0, 0.0), (0.0, 1.0), (0.0, 1.0)], [0, 0, 0, 0, 0, 0])
    result = GDPO()(two)
    assert result.advantages[0] > result.advantages[1]  # the rarer reward earns more; their sums are equal
    expected = maths.gdpo(two.rewards, torch.tensor([0.5, 0.5]), two.groups)
    torch.testing.assert_close(result.advantages, expected)
    assert result.advantages.std().item() == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("name", ["single", "uniform", "static", "random", "gdpo"])
def test_a_batch_without_any_difference_gives_no_advantage(name: str) -> None:
    config = RewardSettings.model_validate({"scalariser": name, "weights": {"success": 1.0}})
    result = pure_scalariser(config, seed=0)(batch([(0.0, 1.0)] * 6, [0, 0, 0, 1, 1, 1]))
    np.testing.assert_allclose(result.advantages.numpy(), 0.0, atol=1e-6)


def test_the_configuration_names_the_scalariser_and_all_that_it_is_made_of() -> None:
    reward_weights, advantage, normalise = {"success": 1.0, "progress": 0.5}, advantages.rloo, maths.z_score
    made = {
        "single": Single("progress", advantage),
        "uniform": Uniform(normalise, advantage),
        "static": Static(reward_weights, normalise, advantage),
        "random": Random(3, normalise, advantage),
        "gdpo": GDPO(reward_weights),
    }
    for name, scalariser in made.items():
        section = {"scalariser": name, "weights": reward_weights, "outcome": "progress", "normalisation": "z_score"}
        assert pure_scalariser(RewardSettings.model_validate(section), 3, advantage) == scalariser


@pytest.mark.parametrize("advantage", [advantages.grpo, advantages.dr_grpo, advantages.rloo])
def test_the_scalar_is_compared_in_the_way_that_was_asked_for(advantage: Advantage) -> None:
    for scalariser in (
        Single("success", advantage),
        Uniform(advantage=advantage),
        Static({"progress": 1.0}, advantage=advantage),
        Random(advantage=advantage),
    ):
        found = scalariser(FOUR)
        torch.testing.assert_close(found.advantages, advantage(found.rewards, FOUR.groups), msg=str(scalariser))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"scalariser": "static"}, r"needs weights, such as reward\.weights\.success=1"),
        ({"scalariser": "gdpo", "weights": {"a": 0.0}}, "weights are all 0"),
        ({"channels": ("a",), "weights": {"b": 1.0}}, "weights name 'b', which is not among channels a"),
        ({"scalariser": "random", "normalisation": "none"}, "needs normalisation rank or z_score"),
        ({"scalariser": "conductor", "normalisation": "z_score"}, "needs normalisation rank"),
        ({"scalariser": "conducter"}, "single"),
    ],
)
def test_a_section_that_cannot_work_is_refused(section: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RewardSettings.model_validate(section)


@pytest.mark.parametrize(
    ("section", "compared"),
    [
        ({}, ("success",)),
        ({"outcome": "score"}, ("score",)),
        ({"scalariser": "uniform"}, ("success", "score", "turns")),
        ({"scalariser": "conductor"}, ("success", "score", "turns")),
        ({"scalariser": "gdpo"}, ("success", "score", "turns")),
        ({"scalariser": "gdpo", "weights": {"turns": 0.5, "success": 0.0}}, ("turns",)),
        ({"scalariser": "static", "weights": {"turns": 0.5, "success": 1.0}}, ("success", "turns")),
        ({"scalariser": "uniform", "weights": {"turns": 0.5}}, ("success", "score", "turns")),
    ],
)
def test_the_channels_that_are_compared_are_those_that_advantages_are_made_of(section: dict, compared: tuple) -> None:
    assert RewardSettings.model_validate(section).compared(("success", "score", "turns")) == compared


def test_a_batch_holds_the_sound_episodes_of_a_table() -> None:
    rows = [trajectory("a", "g", 1.0, 0.5), trajectory("x", "g", 9.0), trajectory("b", "h", 0.0, 0.25)]
    rows[1] = replace(rows[1], episode=replace(rows[1].episode, stop_reason=StopReason.ERROR))
    episodes, _ = schema.to_tables(rows)
    found = reward_batch(episodes, names=("length", "progress"), more={"length": [3.0, 4.0]})
    assert found.episode_ids == ("a", "b")
    assert found.rewards.tolist() == [[3.0, 0.5], [4.0, 0.25]]
    assert found.groups.tolist() == [0, 1]
    assert found.outcome.tolist() == [1.0, 0.0]
    assert reward_batch(episodes).names == ("success", "progress")
    with pytest.raises(UserError, match="'score' is missing in episode a; its channels are success, progress"):
        reward_batch(episodes, outcome="score")
    with pytest.raises(UserError, match="'length' has 3 values for 2 episodes"):
        reward_batch(episodes, more={"length": [1.0, 2.0, 3.0]})


def test_a_channel_that_never_changes_ends_the_run_but_not_at_once() -> None:
    watch = ConstantWatch(limit=8)
    watch.observe(FOUR)
    dead = batch([(0.0, 0.5)] * 4)
    watch.observe(dead)  # success has changed before, in the first batch
    fresh = ConstantWatch(limit=8)
    fresh.observe(dead)
    with pytest.raises(UserError, match="'success' is 0 in all of 8 episodes up to e-3"):
        fresh.observe(dead)


def test_metrics_per_channel() -> None:
    metrics = channel_metrics(FOUR) | reward_weight_metrics(FOUR.names, Uniform()(FOUR))
    assert metrics["reward/success/mean"] == 0.25
    assert metrics["reward/success/spread"] == 0.5
    assert metrics["reward/progress/weight"] == 0.5
    assert "reward/progress/sampled" not in metrics


def test_metrics_of_sampled_channels_tell_their_shares_and_the_entropy() -> None:
    probabilities = torch.tensor([[0.5, 0.5], [0.5, 0.5], [1.0, 0.0], [1.0, 0.0]])
    sampled = replace(Uniform()(FOUR), choices=torch.tensor([0, 1, 0, 0]), probabilities=probabilities)
    metrics = reward_weight_metrics(FOUR.names, sampled)
    assert (metrics["reward/success/sampled"], metrics["reward/progress/sampled"]) == (0.75, 0.25)
    assert metrics["reward/entropy"] == pytest.approx(0.5)


def test_reward_weights_that_never_change_are_of_version_zero_and_in_full_precision() -> None:
    for scalariser in (Single("success"), Uniform(), Static({"progress": 0.1}), Random(), GDPO()):
        found = scalariser(FOUR)
        assert (found.version, found.reward_weights.dtype) == (0, torch.float64)
    assert Static({"progress": 0.1})(FOUR).reward_weights[0].tolist() == [0.0, 0.1]


def test_some_rollouts_of_a_batch_keep_their_groups() -> None:
    rows = batch([(0.0, 1.0)] * 5, [0, 0, 2, 3, 3])
    some = rows.take(torch.tensor([1, 3, 4]))
    assert (some.episode_ids, some.groups.tolist(), len(some.rewards)) == (("e-1", "e-3", "e-4"), [0, 1, 1], 3)


def test_a_channel_that_one_environment_lacks_is_named() -> None:
    rows = trajectory("a", "g", 1.0), trajectory("b", "h", 0.0)
    shopping = replace(rows[1], episode=replace(rows[1].episode, rewards={"success": 0.0, "score": 0.5}))
    episodes = schema.concat_tables([schema.to_tables([one])[0] for one in (rows[0], shopping)])
    assert reward_batch(episodes, names=("success",)).rewards.tolist() == [[1.0], [0.0]]
    with pytest.raises(UserError, match="'score' is missing in episode a, whose environment does not have it"):
        reward_batch(episodes, names=("score",))


def rollouts() -> list:
    turns = (Turn(0, 2, 0.0, 7, True), Turn(2, 4, 1.0, 8, True))
    rows = [
        trajectory("a", "g", 1.0, 0.5, turns, parts=2), trajectory("b", "g", 0.0, 0.25, turns, parts=2),
        trajectory("c", "h", 1.0), trajectory("d", "h", 1.0), trajectory("x", "h", 0.0),
    ]  # fmt: skip
    rows[4] = replace(rows[4], episode=replace(rows[4].episode, stop_reason=StopReason.ERROR))
    return rows


def test_assignments_carry_the_version_of_the_weights() -> None:
    episodes, sequences = schema.to_tables(rollouts())
    rows = reward_batch(episodes)
    scalarised = replace(Uniform()(rows), version=5)
    by_id = {a.sequence_id: a for a in schema.assignments_from_table(
        scalarised_assignments(sequences, rows, scalarised, GRPOSettings()))}  # fmt: skip
    assert by_id["a-0"].reward_weights_version == 5
    assert by_id["a-0"].advantages == pytest.approx([float(scalarised.advantages[0])])
    assert by_id["x-0"].rl_weight == 0.0


@pytest.mark.parametrize("scalariser", ["single", "uniform", "static", "random"])
def test_a_penalty_is_taken_off_the_scalar_reward_before_it_is_normalised(scalariser: str) -> None:
    config = RewardSettings.model_validate({"scalariser": scalariser, "weights": {"success": 1.0}})
    rows = batch([(1.0, 0.2), (0.0, 0.9), (0.0, 0.1), (1.0, 0.5)], [0, 0, 1, 1])
    penalty = torch.linspace(0.0, 1.0, len(rows.episode_ids), dtype=torch.float64)
    plain, penalised = (pure_scalariser(config, 0)(row) for row in (rows, replace(rows, penalty=penalty)))
    torch.testing.assert_close(penalised.rewards, plain.rewards - penalty)
    torch.testing.assert_close(penalised.advantages, advantages.grpo(plain.rewards - penalty, rows.groups))
    part = replace(rows, penalty=penalty).take(torch.tensor([1, 0]))
    assert part.penalty is not None and part.penalty.tolist() == penalty[[1, 0]].tolist()
