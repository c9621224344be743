"""An environment of your own: put the letters on a shelf in order by swapping neighbours.

Whatever has these methods is an `Environment`. A run finds it by its module, which has the two functions
`open_environment` and `open_tasks` (docs/adding-an-environment.md):

    python -m examples.own_environment
    PYTHONPATH=. concerto train --set tasks=examples.own_environment --out runs/shelf
"""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

from envs import Observation, StepResult, make_panel
from envs.experts import play_expert
from trajectories.errors import UserError

SPLITS = {"train": range(40), "test": range(40, 50)}


def shuffled(number: int) -> list[str]:
    """The letters of a task; a task id is `split/number`."""
    letters = list("abcde")
    random.Random(number).shuffle(letters)
    return letters


class ShelfTasks:
    """The tasks of each split, for panels."""

    train_split, heldout_split, test_splits = "train", "test", ("test",)

    def task_ids(self, split: str) -> tuple[str, ...]:
        return tuple(f"{split}/{number}" for number in SPLITS[split])

    def content_hash(self, task_id: str) -> str:
        return hashlib.sha256("".join(shuffled(int(task_id.split("/")[1]))).encode()).hexdigest()


class Shelf:
    """Rewards of a step: `success`: 1.0 when the last letter finds its place. `progress`: neighbours put in order."""

    reward_names = ("success", "progress")

    def reset(self, task_id: str, seed: int = 0) -> Observation:
        split, _, number = task_id.partition("/")
        if not number.isdecimal() or int(number) not in SPLITS.get(split, ()):
            raise UserError(f"no task {task_id!r} on this shelf; task ids read like test/42")
        self._letters = shuffled(int(number))
        return self._observation()

    def step(self, action: str) -> StepResult:
        letters, before = self._letters, self._in_order()
        valid = action in self._observation().admissible_actions  # any text is an action; nonsense does nothing
        if valid:
            at = int(action.split()[1])
            letters[at - 1], letters[at] = letters[at], letters[at - 1]
        done = letters == sorted(letters)
        rewards = {"success": float(done), "progress": (self._in_order() - before) / (len(letters) - 1)}
        digest = hashlib.blake2b("".join(letters).encode(), digest_size=7).digest()
        info = {"action_valid": valid, "state_hash": int.from_bytes(digest, "big")}
        return StepResult(self._observation(), rewards, done, info)

    def close(self) -> None: ...

    def expert(self, seed: int = 0) -> BubbleSort:
        return BubbleSort()

    def _observation(self) -> Observation:
        actions = tuple(f"swap {at}" for at in range(1, len(self._letters)))
        return Observation(f"On the shelf: {' '.join(self._letters)}.", actions)

    def _in_order(self) -> int:
        return sum(left < right for left, right in zip(self._letters, self._letters[1:], strict=False))


class BubbleSort:
    """The expert sees what a model sees, so a model can learn to do the same."""

    def reset(self, observation: Observation) -> None: ...

    def act(self, observation: Observation) -> str:
        letters = observation.text.removeprefix("On the shelf: ").removesuffix(".").split()
        at = next(at for at in range(1, len(letters)) if letters[at - 1] > letters[at])
        return f"swap {at}"


def open_environment(data: str | Path | None = None) -> Shelf:
    return Shelf()


def open_tasks(data: str | Path | None = None) -> ShelfTasks:
    return ShelfTasks()


def main() -> None:
    panel = make_panel("shelf", "test", ShelfTasks())
    print(f"panel {panel.name}: {len(panel.task_ids)} tasks, hash {panel.hash[:8]}")
    for observation, action, result in play_expert(Shelf(), panel.task_ids[0]):
        print(f"{observation} > {action}  {dict(result.rewards)}")


if __name__ == "__main__":
    main()
