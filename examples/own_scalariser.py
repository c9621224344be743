"""A scalariser of your own: progress counts only where success says nothing.

In a group that solved its task sometimes, the outcome is all that matters. Where nobody did (or everybody), plain GRPO
learns nothing from the group; here the rollout that came furthest is still better than the others.

    python -m examples.own_scalariser
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from learners.objectives import advantages
from learners.rewards.reward_batch import RewardBatch
from learners.rewards.scalarisers import Scalarised, Scalariser, Single


@dataclass(frozen=True, slots=True)
class OutcomeElse:
    """The outcome in groups in which it varies, another channel in all others."""

    fallback: str

    def __call__(self, batch: RewardBatch) -> Scalarised:
        silent = advantages.zero_variance(batch.outcome, batch.groups)
        chosen = torch.where(silent, batch.names.index(self.fallback), batch.names.index("success"))
        reward_weights = torch.nn.functional.one_hot(chosen, len(batch.names)).double()
        rewards = (batch.rewards * reward_weights).sum(1)
        return Scalarised(rewards, advantages.grpo(rewards, batch.groups), reward_weights)


def main() -> None:
    # Two tasks, three rollouts each: the first was solved once, the second never. In a run, `reward_batch(episodes)`
    # makes this from a table, and `assign.scalarised_assignments` turns the result into what a learner trains on.
    rewards = torch.tensor([[1.0, 1.0], [0.0, 0.75], [0.0, 0.5], [0.0, 0.5], [0.0, 0.25], [0.0, 0.0]]).double()
    batch = RewardBatch(
        names=("success", "progress"),
        episode_ids=tuple(f"episode-{number}" for number in range(6)),
        rewards=rewards,
        groups=torch.tensor([0, 0, 0, 1, 1, 1]),
        outcome=rewards[:, 0],
    )
    scalarisers: dict[str, Scalariser] = {"plain GRPO": Single("success"), "own": OutcomeElse("progress")}
    for name, scalarise in scalarisers.items():
        print(f"{name}: advantages {[round(value, 2) for value in scalarise(batch).advantages.tolist()]}")


if __name__ == "__main__":
    main()
