from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from learners.learner_settings import GRPOSettings
from learners.objectives import advantages
from learners.objectives.assign import (
    completed_assignments,
    duplicate_share,
    pending_assignments,
    scalarised_assignments,
)
from learners.rewards import maths
from learners.rewards.reward_batch import reward_batch
from learners.rewards.scalarisers import Static
from trajectories import schema
from trajectories.types import Episode, Route, Sequence, StopReason, Trajectory, Turn

EPISODE = Episode("e", "g", 0, "alfworld", "train", "t", 0, 0, 0, StopReason.DONE, False, {}, 2, 0.0, 0.0, 0.0)


def trajectory(
    name: str, group: str, success: float, progress: float = 0.0, turns: tuple[Turn, ...] = (), parts: int = 1
) -> Trajectory:
    rewards = {"success": success, "progress": progress}
    arrays = np.zeros(4, np.int32), np.array([False, True, True, True]), np.zeros(4, np.float32)
    turns = turns or (Turn(1, 4, 0.0, 0, True),) * parts
    sequences = tuple(
        Sequence(f"{name}-{part}", name, group, *arrays, turns=turns[part : part + 1] if parts > 1 else turns,
                 version_spans=(), temperature=1.0)
        for part in range(parts)
    )  # fmt: skip
    return Trajectory(replace(EPISODE, episode_id=name, group_id=group, rewards=rewards), sequences)


def assign(batch: list[Trajectory], config: GRPOSettings | None = None, **weights: float) -> dict:
    """By raw rewards with these weights."""
    episodes, sequences = schema.to_tables(batch)
    rows = reward_batch(episodes)
    scalarised = Static(weights or {"success": 1.0}, maths.NORMALISATIONS["none"], advantages.grpo)(rows)
    return by_id(scalarised_assignments(sequences, rows, scalarised, config or GRPOSettings()))


def by_id(table: pa.Table) -> dict:
    return {a.sequence_id: a for a in schema.assignments_from_table(table)}


def test_the_reward_of_an_episode_becomes_the_advantage_of_its_sequences() -> None:
    rows = assign([trajectory("a", "g", 1.0, parts=2), *(trajectory(name, "g", 0.0) for name in "bcd")])
    assert rows["a-0"].advantages == rows["a-1"].advantages == pytest.approx([1.5], abs=1e-5)
    assert rows["b-0"].advantages == pytest.approx([-0.5], abs=1e-5)
    assert {row.route for row in rows.values()} == {Route.GRPO}
    assert rows["a-0"].reward_advantages == pytest.approx({"success": 1.5, "progress": 0.0}, abs=1e-5)


def test_groups_without_variance_have_weight_zero() -> None:
    rows = assign(
        [trajectory("a", "g", 1.0), trajectory("b", "g", 1.0), trajectory("c", "h", 1.0), trajectory("d", "h", 0.0)]
    )
    assert [(rows[f"{name}-0"].rl_weight, rows[f"{name}-0"].route) for name in "abcd"] == [
        (0.0, Route.DROP), (0.0, Route.DROP), (1.0, Route.GRPO), (1.0, Route.GRPO),
    ]  # fmt: skip


def test_a_member_that_is_as_good_as_its_groups_mean_stays_where_the_group_varies() -> None:
    rows = assign([trajectory(name, "g", success) for name, success in zip("abc", (1.0, 0.5, 0.0), strict=True)])
    assert rows["b-0"].advantages == pytest.approx([0.0])
    assert {(row.route, row.rl_weight) for row in rows.values()} == {(Route.GRPO, 1.0)}


def test_turns_that_cancel_out_in_their_sum_teach_all_the_same() -> None:
    """Both turns of the first episode were played at the common start, one for 1, one for -1."""
    turns = (Turn(1, 2, 1.0, 0, True), Turn(2, 3, -1.0, 0, True))
    rows = assign(
        [trajectory("a", "g", 0.0, turns=turns), trajectory("b", "g", 0.0)],
        GRPOSettings(advantage="anchored", gamma=0.0),
    )
    assert rows["a-0"].advantages == pytest.approx([1.0, -1.0])
    assert {row.route for row in rows.values()} == {Route.GRPO}


def test_reward_weights_make_the_scalar() -> None:
    batch = [trajectory("a", "g", 0.0, progress=0.5), trajectory("b", "g", 0.0, progress=0.0)]
    assert assign(batch)["a-0"].route == Route.DROP
    assert assign(batch, success=1.0, progress=0.1)["a-0"].advantages > (0.0,)


def test_failed_episodes_neither_train_nor_count_in_their_group() -> None:
    failed = trajectory("x", "g", 1.0)
    failed = replace(failed, episode=replace(failed.episode, stop_reason=StopReason.ERROR))
    rows = assign([failed, trajectory("a", "g", 0.0), trajectory("b", "g", 0.0)])
    assert {row.route for row in rows.values()} == {Route.DROP}


def test_truncated_episodes_count_in_their_group_and_train_unless_they_are_masked() -> None:
    batch = [trajectory("a", "g", 1.0), *(trajectory(name, "g", 0.0) for name in "bcd")]
    for at, reason in ((1, StopReason.TURN_LIMIT), (2, StopReason.LENGTH_LIMIT)):
        batch[at] = replace(batch[at], episode=replace(batch[at].episode, stop_reason=reason))
    trained, masked = assign(batch), assign(batch, GRPOSettings(truncated="mask"))
    assert {row.rl_weight for row in trained.values()} == {1.0}
    assert [(masked[f"{name}-0"].rl_weight, masked[f"{name}-0"].route) for name in "abcd"] == [
        (1.0, Route.GRPO), (0.0, Route.DROP), (0.0, Route.DROP), (1.0, Route.GRPO),
    ]  # fmt: skip
    for name in "ad":
        assert masked[f"{name}-0"] == trained[f"{name}-0"], "compared with all members all the same"


def test_truncated_responses_train_unless_they_are_masked() -> None:
    """In a transcript the advantage of the turn is 0; a window that is nothing but such a turn is dropped."""
    batch = [acting("a", "g", (1,), (2,)), acting("b", "g", (1,), (2,), parts=2)]
    won = {**batch[0].episode.rewards, "success": 1.0}
    batch[0] = replace(batch[0], episode=replace(batch[0].episode, rewards=won))
    for at, played in enumerate(batch):
        *others, last = played.sequences
        turns = (*last.turns[:-1], replace(last.turns[-1], truncated=True))
        batch[at] = replace(played, sequences=(*others, replace(last, turns=turns)))
    trained, masked = assign(batch), assign(batch, GRPOSettings(truncated="mask"))
    assert all(all(row.advantages) and row.rl_weight == 1.0 for row in trained.values())
    whole, first, second = (row for name, row in sorted(masked.items()))
    assert whole.advantages[0] == trained[whole.sequence_id].advantages[0] and whole.advantages[1] == 0.0
    assert first == trained[first.sequence_id]
    assert (second.route, second.rl_weight) == (Route.DROP, 0.0)


def acting(name: str, group: str, *actions: tuple[int, ...], parts: int = 1) -> Trajectory:
    """An episode of these actions, whose prompt tells it apart; in one sequence, or one a turn."""
    prompt = (ord(name[0]),)
    played = []
    for turns in [actions] if parts == 1 else [(action,) for action in actions]:
        ids, spans = list(prompt), []
        for action in turns:
            spans.append(Turn(len(ids), len(ids) + len(action), 0.0, 0, True))
            ids += [*action, 99]  # what the environment answers
        trained = np.zeros(len(ids), np.bool_)
        for span in spans:
            trained[span.start : span.end] = True
        played.append(
            Sequence(f"{name}-{len(played)}", name, group, np.array(ids, np.int32), trained,
                     np.zeros(len(ids), np.float32), tuple(spans), (), 1.0)
        )  # fmt: skip
    return replace(trajectory(name, group, 0.0), sequences=tuple(played))


def duplicates(*batch: Trajectory) -> float:
    episodes, sequences = schema.to_tables(batch)
    return duplicate_share(sequences, reward_batch(episodes))


@pytest.mark.parametrize("parts", [1, 2], ids=["transcript", "windowed"])
def test_members_that_repeat_an_earlier_one_of_their_group_are_duplicates(parts: int) -> None:
    a, b, c = (1,), (2, 3), (4,)
    batch = [acting("p", "g", a, b, parts=parts), acting("q", "g", a, b, parts=parts), acting("r", "g", a, c)]
    assert duplicates(*batch) == pytest.approx(1 / 3)
    assert duplicates(*batch, acting("s", "h", a, b), acting("t", "g", a, b)) == pytest.approx(2 / 5)
    assert duplicates(acting("p", "g", (1, 2), (3,)), acting("q", "g", (1,), (2, 3))) == 0.0, "turn by turn"
    assert duplicates(acting("p", "g", a), acting("q", "g", a, b)) == 0.0, "as far as both go is not enough"


def test_an_episode_that_failed_is_no_duplicate() -> None:
    failed = acting("x", "g", (1,))
    failed = replace(failed, episode=replace(failed.episode, stop_reason=StopReason.ERROR))
    assert duplicates(failed, acting("p", "g", (1,)), acting("q", "g", (2,))) == 0.0


@pytest.mark.parametrize("parts", [1, 2], ids=["transcript", "windowed"])
@pytest.mark.parametrize(("advantage", "credit"), [("gigpo", 0.5**0.5), ("anchored", 0.5), ("gae", 0.5)])
def test_turns_are_credited_with_what_followed_the_same_state(advantage: str, credit: float, parts: int) -> None:
    """Two lost episodes part at state 7: the one that goes on to a reward is preferred there, and only there."""
    good = (Turn(1, 2, 0.0, 7, True), Turn(2, 3, 1.0, 8, True))
    bad = (Turn(1, 2, 0.0, 7, True), Turn(2, 3, 0.0, 9, True))
    config = GRPOSettings.model_validate({"advantage": advantage, "gamma": 0.0})
    rows = assign(
        [trajectory("a", "g", 0.0, turns=good, parts=parts), trajectory("b", "g", 0.0, turns=bad, parts=parts)], config
    )
    found = [sum((rows[f"{name}-{part}"].advantages for part in range(parts)), ()) for name in "ab"]
    assert found[0] == pytest.approx([0.0, credit], abs=1e-5)
    assert found[1] == pytest.approx([0.0, -credit], abs=1e-5)


@pytest.mark.parametrize("advantage", ["gigpo", "anchored"])
def test_a_turn_is_credited_with_the_discounted_sum_of_all_that_followed(advantage: str) -> None:
    """Three lost episodes earn 1 in their third, second and first turn: 0.25, 0.5 and 1 from the common start on."""
    state, reward = (7, 8, 9), 1.0
    played = [
        tuple(Turn(at, at + 1, reward * (at == last), state[at - 1], True) for at in range(1, last + 1))
        for last in (3, 2, 1)
    ]
    config = GRPOSettings.model_validate({"advantage": advantage, "gamma": 0.5})
    rows = assign([trajectory(name, "g", 0.0, turns=turns) for name, turns in zip("abc", played, strict=True)], config)

    def compared(*returns: float) -> np.ndarray:
        centred = np.array(returns) - np.mean(returns)
        return centred / np.std(returns, ddof=1) if advantage == "gigpo" else centred

    first, second = compared(0.25, 0.5, 1.0), compared(0.5, 1.0)
    assert rows["a-0"].advantages == pytest.approx([first[0], second[0], 0.0], abs=1e-4)
    assert rows["b-0"].advantages == pytest.approx([first[1], second[1]], abs=1e-4)
    assert rows["c-0"].advantages == pytest.approx([first[2]], abs=1e-4)


def test_a_turn_towards_the_goal_is_credited_in_a_lost_episode_too() -> None:
    won = trajectory("a", "g", 1.0, turns=(Turn(1, 2, 0.0, 7, True), Turn(2, 3, 1.0, 8, True)))
    lost = trajectory("b", "g", 0.0, turns=(Turn(1, 2, 0.0, 7, True), Turn(2, 3, 0.0, 0, True)))
    rows = assign([won, lost], GRPOSettings(advantage="graph", step_weight=2.0))
    episode = 0.5**0.5  # normalised, as `assign` has it
    assert rows["a-0"].advantages == pytest.approx([episode + 2 * 0.25, episode + 2 * 0.25], abs=1e-5)
    assert rows["b-0"].advantages == pytest.approx([-episode + 2 * 0.25, -episode - 2 * 0.75], abs=1e-5)


def test_an_invalid_action_costs_against_the_mean_of_its_group() -> None:
    one = trajectory("a", "g", 1.0, turns=(Turn(1, 2, 0.0, 7, True), Turn(2, 3, 0.0, 7, False)))
    rows = assign([one, trajectory("b", "g", 1.0)], GRPOSettings(advantage="dr_grpo", invalid_penalty=0.3))
    assert rows["a-0"].advantages == pytest.approx([0.1, -0.2])
    assert rows["b-0"].advantages == pytest.approx([0.1])


@pytest.mark.parametrize(("success", "progress"), [(0.0, 0.5), (1.0, 0.0)], ids=["last channel", "first channel"])
def test_pending_assignments_train_where_any_channel_varies(success: float, progress: float) -> None:
    batch = [
        trajectory("a", "g", success, progress), trajectory("b", "g", 0.0), trajectory("c", "h", 1.0),
        trajectory("d", "h", 1.0),
    ]  # fmt: skip
    episodes, sequences = schema.to_tables(batch)
    pending = pending_assignments(sequences, reward_batch(episodes))
    rows = by_id(pending)
    assert [(rows[f"{name}-0"].route, rows[f"{name}-0"].rl_weight) for name in "abcd"] == [
        (Route.GRPO, 1.0), (Route.GRPO, 1.0), (Route.DROP, 0.0), (Route.DROP, 0.0),
    ]  # fmt: skip
    assert not any(any(row.advantages) for row in rows.values())
    complete = by_id(completed_assignments(pending, {"a-0": (0.5,), "b-0": (-0.5,)}, version=3))
    assert [(complete[f"{name}-0"].advantages, complete[f"{name}-0"].reward_weights_version) for name in "abc"] == [
        ((0.5,), 3), ((-0.5,), 3), ((), 0),
    ]  # fmt: skip
