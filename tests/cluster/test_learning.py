"""What `RayLearner` keeps beside the workers' checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from cluster.learning import OnlineRouting, RayLearner
from router.arbitration import RunningQuantile
from router.online import OnlineRouter
from router.scores import Candidates, Loss
from trajectories.schema import sequences_to_table


class Workers:
    """Write and read an empty folder."""

    async def call(self, method: str, folder: str, *_: Any) -> list[None]:
        if method == "save":
            Path(folder).mkdir()
        return [None]


def learner(router: OnlineRouter) -> RayLearner:
    workers: Any = Workers()
    return RayLearner(
        workers, None, sequences_to_table([]), OnlineRouting(router, token_budget=None, demonstrations=None)
    )


async def test_a_restored_learner_routes_with_the_scores_of_before(tmp_path):
    arbiter = RunningQuantile(Loss())
    arbiter.decide(Candidates(("a", "b"), ("mock",) * 2, losses=torch.tensor([1.0, 2.0])))
    saved = OnlineRouter(arbiter, steps=7)
    await learner(saved).save(tmp_path / "learner")
    fresh = learner(OnlineRouter(RunningQuantile(Loss())))
    await fresh.restore(tmp_path / "learner")
    assert fresh.online is not None and fresh.online.router == saved
