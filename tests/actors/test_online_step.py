"""A mixed step that is routed online: what the router actor stamps, and the learner worker trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from actors.group_references import GroupTables
from actors.router import RouterActor
from learners.learner_settings import GRPOSettings
from learners.rewards.reward_settings import RewardSettings
from learners.workers.worker import LearnerWorker
from router.arbitration import AllGRPO, AllSFT, Arbiter, RunningQuantile
from router.online import OnlineRouter
from router.probe import ProbeResult
from router.scores import Loss
from tests.actors.scripted import GroupsAtHand
from tests.learners.samples import learner_settings
from tests.router.test_online import demonstration, group
from trajectories.schema import assignments_from_table, concat_tables
from trajectories.types import Route

GROUPS = [GroupTables(played.episodes, played.sequences) for played in (group("a"), group("b"))]
EXPERTS = concat_tables([demonstration("a"), demonstration("b")])


@pytest.mark.parametrize(
    ("arbiter", "imitated", "explored"),
    [(RunningQuantile(Loss(), fill=1), ["expert-a"], 4), (AllGRPO(), [], 8), (AllSFT(), ["expert-a", "expert-b"], 0)],
)
def test_demonstrations_train_where_they_are_imitated_and_stay_out_where_not(
    tiny_model_dir: Path, arbiter: Arbiter, imitated: list[str], explored: int
) -> None:
    router: Any = RouterActor(GRPOSettings(), RewardSettings(), (), seed=0)
    groups = GroupsAtHand(*GROUPS)
    experts, own, count = router.references(EXPERTS, groups)
    assert (experts["sequence_id"].to_pylist(), own.num_rows, count) == (["expert-a", "expert-b"], 0, 2)
    names = tuple(experts["sequence_id"].to_pylist())
    owners = tuple(experts["episode_id"].to_pylist())
    probed = ProbeResult(names, owners, torch.ones(2, 7), (4,) * 7, torch.tensor([1.0, 2.0]), torch.zeros(2, 4), ())
    assignments, batch, said, after = router.route(OnlineRouter(arbiter), probed, experts, own, None, groups)
    assert said["duplicates"] == 6 / 8, "all members act alike, and each group has a first one"
    assert ("router/score_p50" in said) == isinstance(arbiter, RunningQuantile), "only a quantile compares scores"
    rows = assignments_from_table(assignments)
    assert [row.sequence_id for row in rows if row.route is Route.SFT] == imitated
    assert {row.router_version for row in rows} == {1} and after.steps == 1
    assert len(batch.episode_ids) == explored, "the Conductor weighs what is explored"

    worker = LearnerWorker(learner_settings(tiny_model_dir))
    metrics = worker.train("mixed", concat_tables([*(group.sequences for group in GROUPS), experts]), assignments)
    assert (metrics["sft/sequences"], metrics["grpo/sequences"]) == (len(imitated), explored)


def test_groups_of_one_task_are_given_its_demonstration_once() -> None:
    router: Any = RouterActor(GRPOSettings(), RewardSettings(), (), seed=0)
    experts, _, count = router.references(EXPERTS, GroupsAtHand(GROUPS[0], GROUPS[0]))
    assert (experts["sequence_id"].to_pylist(), count) == (["expert-a"], 1)
