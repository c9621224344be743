"""Online routing of finished groups, by their reference trajectories."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pytest

from cluster.loop.ports import GroupTask
from learners.learner_settings import GRPOSettings
from learners.objectives.assign import scalarised_assignments
from learners.rewards.reward_batch import reward_batch
from learners.rewards.scalarisers import Single
from router import tables
from router.arbitration import (
    EXPLORE,
    IMITATE,
    AllSFT,
    ConstantMix,
    Decision,
    PassRateSplit,
    RunningQuantile,
    ScheduledMix,
)
from router.online import Group, OnlineRouter, one_each, reference_id, routed_assignments, sequences_of
from router.scores import Concentration, Loss, Random
from tests.cluster.simulation import trajectory
from tests.router.samples import make_sequence
from trajectories.ids import demonstration_id
from trajectories.schema import assignments_from_table, sequences_to_table, to_tables
from trajectories.types import Route, StopReason

CHOICES = (("a", EXPLORE), ("b", IMITATE))


def group(name: str, wins: int = 2, turns: tuple[int, ...] = (9, 4, 7, 5), failed: int = 0) -> Group:
    """Four members, of which the first `wins` solved the task and the last `failed` ended in an error."""
    task = GroupTask(name, "mock", f"task-{name}", (1, 3, 5, 7), 1.0, "train")
    members = []
    for member, count in enumerate(turns):
        played = trajectory(task, member, version=0)
        won = member < wins
        stop = StopReason.ERROR if member >= len(turns) - failed else StopReason.DONE
        episode = replace(played.episode, success=won, rewards={"success": float(won)}, turns=count, stop_reason=stop)
        members.append(replace(played, episode=episode))
    episodes, sequences = to_tables(members)
    rows = reward_batch(episodes)
    return Group(episodes, sequences, scalarised_assignments(sequences, rows, Single("success")(rows), GRPOSettings()))


def demonstration(name: str) -> pa.Table:
    sequence = make_sequence(f"expert-{name}", 6, seed=0)
    return sequences_to_table([replace(sequence, episode_id=demonstration_id("mock", f"task-{name}"))])


def measured(losses: dict[str, float], norm: float = 1.0) -> pa.Table:
    common = {"tokens": 5, "trained_tokens": 2, "norms": [norm, 2 * norm], "entries": [1, 4]}
    rows = [{"trajectory": name, "loss": loss, **common} for name, loss in losses.items()]
    return pa.Table.from_pylist(rows, schema=tables.MEASURED)


def test_the_expert_is_the_reference_else_the_quickest_success_else_nobody() -> None:
    expert = demonstration_id("mock", "task-a")
    assert reference_id(group("a").episodes, {expert}) == expert
    assert reference_id(group("a").episodes, ()) == "a/1"
    assert reference_id(group("a", wins=0).episodes, ()) is None


def test_an_imitated_group_trains_its_demonstration_and_nothing_else() -> None:
    found = routed_assignments(group("a"), demonstration("a"), replace(IMITATE, score=0.2, threshold=0.3))
    *members, expert = assignments_from_table(found)
    assert [(row.route, row.rl_weight, row.ce_weight) for row in members] == [(Route.DROP, 0, 0)] * 4
    assert (expert.sequence_id, expert.route, expert.ce_weight) == ("expert-a", Route.SFT, 1.0)
    assert {(row.score, row.threshold) for row in (*members, expert)} == {(0.2, 0.3)}


def test_an_explored_group_trains_as_if_nothing_had_been_routed() -> None:
    given = group("a")
    *members, expert = assignments_from_table(routed_assignments(given, demonstration("a"), EXPLORE))
    assert members == list(assignments_from_table(given.assignments))
    assert (expert.sequence_id, expert.route, expert.ce_weight) == ("expert-a", Route.DROP, 0.0)


def test_a_success_of_the_group_can_be_imitated_itself() -> None:
    given = group("a")
    found = assignments_from_table(routed_assignments(given, sequences_of(given.sequences, "a/1"), IMITATE))
    assert [(row.route, row.ce_weight) for row in found] == [
        (Route.DROP, 0.0), (Route.SFT, 1.0), (Route.DROP, 0.0), (Route.DROP, 0.0)
    ]  # fmt: skip


def test_a_mix_weighs_both_objectives() -> None:
    decision = ConstantMix(0.25).decide(tables.candidates(measured({"x": 1.0}), ["mock"]))[0]
    *members, expert = assignments_from_table(routed_assignments(group("a"), demonstration("a"), decision))
    assert {(row.route, row.rl_weight) for row in members} == {(Route.GRPO, 0.75)}
    assert (expert.route, expert.ce_weight) == (Route.SFT, 0.25)


def test_groups_are_compared_with_those_of_the_steps_before() -> None:
    router = OnlineRouter(RunningQuantile(Loss(), fill=1))
    groups = [group(name) for name in "abcd"]
    names = [f"{name}/1" for name in "abcd"]
    first = router.decide(groups, names, measured({"a/1": 1, "b/1": 2, "c/1": 3, "d/1": 4}))
    assert first == [IMITATE, IMITATE, EXPLORE, EXPLORE]
    assert router.decide(groups[:1], names[:1], measured({"a/1": 2.5})) == [IMITATE], "the median is 2.5 now"
    assert router.decide(groups[:1], names[:1], measured({"a/1": 2.6})) == [EXPLORE]
    assert router.steps == 3


def test_norms_per_entry_are_compared_in_a_run_too() -> None:
    router = OnlineRouter(RunningQuantile(Concentration.named("gini_per_entry"), fill=1))
    (decision,) = router.decide([group("a")], ["a/1"], measured({"a/1": 1.0}))
    assert decision is not None and decision.score == pytest.approx(0.0), "2 / sqrt(4) is as much as 1 / sqrt(1)"


def test_own_successes_are_not_compared_with_experts() -> None:
    groups = [group(name) for name in "abcd"]
    experts = [demonstration_id("mock", f"task-{name}") for name in "ab"]
    names = [*experts, "c/1", "d/1"]
    losses = dict(zip(names, (5.0, 6.0, 0.1, 0.2), strict=True))
    found = OnlineRouter(RunningQuantile(Loss(), fill=1)).decide(groups, names, measured(losses))
    assert found == [IMITATE, EXPLORE, IMITATE, EXPLORE]


def test_a_group_without_reference_or_without_gradient_is_not_routed() -> None:
    router = OnlineRouter(RunningQuantile(Loss(), fill=1))
    groups = [group("a", wins=0), group("b"), group("c")]
    table = pa.concat_tables([measured({"b/1": 1.0}), measured({"c/1": 1.0}, norm=float("nan"))])
    assert router.decide(groups, [None, "b/1", "c/1"], table) == [None, IMITATE, None]
    assert router.decide(groups[:1], [None], measured({})) == [None]


def test_a_matrix_without_gradient_is_no_reason_to_leave_a_group_out_but_a_model_without_any_is() -> None:
    table = measured({"a/1": 1.0, "b/1": 1.0})
    table = table.set_column(
        4,
        tables.MEASURED.field("norms"),
        pa.array([[0.0, 2.0], [0.0, 0.0]], pa.list_(pa.float64())).cast(tables.MEASURED.field("norms").type),
    )
    kept, left_out = OnlineRouter(RunningQuantile(Loss())).decide([group("a"), group("b")], ["a/1", "b/1"], table)
    assert kept is not None and left_out is None


def test_members_that_failed_do_not_count_in_the_pass_rate() -> None:
    (decision,) = OnlineRouter(PassRateSplit(0.6)).decide([group("a", wins=2, failed=1)], [None], None)
    assert decision is None, "no reference"
    for failed, expected in ((0, IMITATE), (1, EXPLORE)):
        (decision,) = OnlineRouter(PassRateSplit(0.6)).decide([group("a", wins=2, failed=failed)], ["a/1"], None)
        assert decision is not None and decision == expected and decision.score == 2 / (4 - failed)


def test_policies_that_treat_all_alike_decide_for_a_group_without_reference() -> None:
    groups = [group("a", wins=0), group("b")]
    for arbiter in (ConstantMix(0.25), AllSFT()):
        first, second = OnlineRouter(arbiter).decide(groups, [None, "b/1"], None)
        assert first == second and first is not None
    members = assignments_from_table(routed_assignments(group("b"), sequences_of(demonstration("b"), None), IMITATE))
    assert [(row.route, row.rl_weight, row.ce_weight) for row in members] == [(Route.DROP, 0.0, 0.0)] * 4


def test_groups_of_one_task_share_its_demonstration_which_is_imitated_once() -> None:
    explored, imitated = (routed_assignments(group(name), demonstration("a"), d) for name, d in CHOICES)
    for parts in ([explored, imitated], [imitated, explored]):
        rows = assignments_from_table(one_each(pa.concat_tables(parts), demonstration("a")))
        assert len(rows) == 9
        assert [(row.route, row.ce_weight) for row in rows if row.sequence_id == "expert-a"] == [(Route.SFT, 1.0)]
    *_, left = assignments_from_table(one_each(group("a").assignments, demonstration("a")))
    assert (left.sequence_id, left.route) == ("expert-a", Route.DROP)


def test_policies_that_need_no_probe_decide_without_one() -> None:
    groups, names = [group("a", wins=0), group("b", wins=4)], ["x", "y"]
    assert OnlineRouter(PassRateSplit(0.5)).decide(groups, names, None) == [IMITATE, EXPLORE]
    assert None not in OnlineRouter(RunningQuantile(Random(3))).decide(groups, names, None)
    schedule = OnlineRouter(ScheduledMix(peak=0.5, valley=0.1, warmup_steps=1, decay_steps=0))
    weights = [decision.ce_weight for _ in range(2) if (decision := schedule.decide(groups, names, None)[0])]
    assert weights == [0.0, 0.1]


def test_a_restored_router_goes_on_as_the_original() -> None:
    def batch(number: int) -> tuple[list[Group], list[str | None], pa.Table]:
        groups = [group(f"{number}-{name}") for name in "abc"]
        names: list[str | None] = [f"{number}-{name}/1" for name in "abc"]
        return groups, names, measured({str(name): hash_free(name) for name in names})

    def hash_free(name: str | None) -> float:
        return float(sum(map(ord, name or "")) % 7)

    router = OnlineRouter(RunningQuantile(Loss(), window=4, fill=1))
    router.decide(*batch(0))
    copy = OnlineRouter(RunningQuantile(Loss(), window=4, fill=1))
    copy.restore(router.state())
    for number in (1, 2):
        ours: list[Decision | None] = router.decide(*batch(number))
        assert ours == copy.decide(*batch(number))
    assert router == copy


@pytest.mark.parametrize("wins", [0, 4])
def test_a_group_without_variance_can_still_be_imitated(wins: int) -> None:
    *members, expert = assignments_from_table(routed_assignments(group("a", wins), demonstration("a"), IMITATE))
    assert {row.route for row in members} == {Route.DROP} and expert.route is Route.SFT
