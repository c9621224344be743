"""Text environments with the interface of Gymnasium: `reset(seed=…)` and `step(action)`.

A class or function without arguments that gives one is named by its dotted path, and needs no line of code:

    concerto play textgames.words.WordGame train/7
    concerto train --set tasks=textgames.words.WordGame --set schedule.sft_steps=0

Where it takes arguments, where other seeds are wanted or another rule of success, one line in a module of your own does
(`my_package/words.py` below, for `--set tasks=my_package.words.five`):

    five = GymnasiumTasks(partial(WordGame, length=5), {"train": range(500), "dev": range(500, 550)}, solved_at=0.8)

The interface is that of https://gymnasium.farama.org/api/env with texts as observations and actions; `gymnasium` itself
need not be installed.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from envs.adapters.chance import Chance
from envs.base import Observation, StepResult
from envs.contract import shown
from trajectories.errors import UserError, first_line

SEEDS: Mapping[str, Sequence[int]] = MappingProxyType(
    {"train": range(1000), "dev": range(1000, 1050), "test": range(1050, 1150)}
)
"""The tasks of an environment that has none but its seeds."""
INTERFACE = "the interface of Gymnasium since 0.26"


class GymnasiumEnvironment(Protocol):
    """What is asked of an environment from outside.

    Its `info` may tell, in both methods, `admissible_actions` (texts), and in `step` also `success`, `action_valid`
    (bool) and `state_hash` (int).
    """

    def reset(self, *, seed: int | None = None) -> tuple[str, Mapping[str, Any]]: ...

    def step(self, action: str) -> tuple[str, float, bool, bool, Mapping[str, Any]]:
        """Observation, reward, terminated, truncated, info. Any text is an action."""
        ...


class GymnasiumTasks:
    """An environment from outside under a name, and its seeds as tasks: task `train/7` begins with `reset(seed=7)`.

    It stands where a module stands that has `open_environment` and `open_tasks`.

    Args:
        make: gives a new environment.
        seeds: of each split; `train` is trained on, `dev` evaluated during a run, `test` only reported on.
        solved_at: sum of rewards with which an episode that terminates is a success, where `info` tells no `success`.
    Raises:
        UserError: two splits share a seed, or there is no `train` or no `dev`.
    """

    train_split, heldout_split, test_splits = "train", "dev", ("test",)

    def __init__(
        self, make: Callable[[], Any], seeds: Mapping[str, Sequence[int]] = SEEDS, solved_at: float = 1.0
    ) -> None:
        self._make, self._seeds, self._solved_at = make, seeds, solved_at
        if missing := {"train", "dev"} - set(seeds):
            raise UserError(f"the seeds of {_name(make)} lack {' and '.join(sorted(missing))}: give each some seeds")
        for (one, ours), (other, theirs) in combinations(seeds.items(), 2):
            if shared := set(ours) & set(theirs):
                raise UserError(
                    f"{one} and {other} of {_name(make)} share the seed {min(shared)}: what is trained on is not "
                    "evaluated; give them seeds apart"
                )

    def open_environment(self, data: str | Path | None = None) -> GymnasiumPlay:
        if data is not None:
            raise UserError(f"{_name(self._make)} takes no data, so leave out data.…={data}")
        return GymnasiumPlay(_made(self._make), self._seeds, self._solved_at)

    def open_tasks(self, data: str | Path | None = None) -> GymnasiumTasks:
        return self

    def task_ids(self, split: str) -> tuple[str, ...]:
        if split not in self._seeds:
            raise UserError(f"no split {split!r} of {_name(self._make)}; choose one of {', '.join(self._seeds)}")
        return tuple(f"{split}/{seed}" for seed in self._seeds[split])

    def content_hash(self, task_id: str) -> str:
        """Of what the task shows first: the rest of an environment from outside cannot be seen beforehand."""
        first = self._player.reset(task_id)
        return hashlib.sha256(
            "\0".join((task_id, first.text, *first.admissible_actions)).encode(errors="surrogatepass")
        ).hexdigest()

    @property
    def _player(self) -> GymnasiumPlay:
        if not hasattr(self, "_opened"):
            self._opened = self.open_environment()
        return self._opened


class GymnasiumPlay:
    """Rewards of a step: `success`: 1.0 on the last step of an episode that is solved. `score`: the environment's own.

    What an environment draws from `random` or `numpy.random` follows from the task's seed too, so that all members of a
    group play the same episode.

    Where `info` tells no `state_hash`, states are equal that show the same text, as in GiGPO's published code.
    """

    reward_names = ("success", "score")

    def __init__(self, environment: Any, seeds: Mapping[str, Sequence[int]], solved_at: float) -> None:
        try:
            inspect.signature(environment.reset).bind(seed=0)
        except TypeError as error:
            raise UserError(
                f"{_name(environment)}.reset cannot be called with a seed alone ({error}): it has not {INTERFACE}"
            ) from None
        self._environment, self._seeds, self._solved_at = environment, seeds, solved_at
        self._chance = Chance()
        self._score: float | None = None
        """Earned so far; None where no episode is under way."""

    def reset(self, task_id: str, seed: int = 0) -> Observation:
        """Start the episode of the task's own seed; `seed` changes nothing."""
        split, _, number = task_id.partition("/")
        if not number.isdecimal() or int(number) not in self._seeds.get(split, ()):
            example = next(f"{name}/{seeds[0]}" for name, seeds in self._seeds.items() if seeds)
            raise UserError(f"no task {task_id!r} of {_name(self._environment)}; task ids read like {example}")
        with self._chance.begin(int(number)):
            answer = self._environment.reset(seed=int(number))
        text, info = _parts(answer, 2, f"{_name(self._environment)}.reset")
        self._score = 0.0
        return self._observation(text, info)

    def step(self, action: str) -> StepResult:
        if self._score is None:
            raise RuntimeError("no episode is under way: reset first")
        with self._chance.go_on():
            answer = self._environment.step(action)
        text, reward, terminated, truncated, info = _parts(answer, 5, f"{_name(self._environment)}.step")
        observation = self._observation(text, info)
        reward = _number(reward, f"{_name(self._environment)}.step")
        self._score += reward
        done = bool(terminated or truncated)
        solved = done and bool(info.get("success", terminated and self._score >= self._solved_at))
        state = info.get("state_hash", _hash(text))
        self._score = None if done else self._score
        return StepResult(
            observation,
            rewards={"success": float(solved), "score": reward},
            done=done,
            info={"action_valid": bool(info.get("action_valid", True)), "state_hash": state},
        )

    def close(self) -> None:
        self._score = None
        if hasattr(self._environment, "close"):
            self._environment.close()

    def _observation(self, text: Any, info: Mapping[str, Any]) -> Observation:
        if not isinstance(text, str):
            raise UserError(
                f"{_name(self._environment)} shows a {type(text).__name__}, no text: wrap it in a class whose reset "
                "and step say it in words"
            )
        told = info.get("admissible_actions")
        actions = () if told is None else tuple(told) if isinstance(told, Iterable) else (told,)
        if isinstance(told, str) or not all(isinstance(action, str) for action in actions):
            raise UserError(
                f"{_name(self._environment)} tells {shown(told)} as its admissible_actions: give a list of texts"
            )
        return Observation(text, actions)


def plays_like_gymnasium(found: Any) -> bool:
    """Whether it is a class with the two methods."""
    return isinstance(found, type) and all(callable(getattr(found, method, None)) for method in ("reset", "step"))


def _made(make: Callable[[], Any]) -> Any:
    try:
        return make()
    except Exception as error:  # whatever the making of an environment from outside does
        raise UserError(
            f"{_name(make)} cannot be made ({type(error).__name__}: {first_line(error)}): where it takes arguments, "
            "name a GymnasiumTasks(partial(…)) of your own (docs/bring-your-own.md)"
        ) from error


def _parts(answer: Any, count: int, what: str) -> Any:
    """Raises UserError where the answer has not Gymnasium's form."""
    if isinstance(answer, tuple) and len(answer) == count:
        if not isinstance(answer[-1], Mapping):
            raise UserError(
                f"{what} gives {shown(answer[-1])} as its info: give a dict, empty where there is nothing to tell"
            )
        return answer
    wanted = {2: "(observation, info)", 5: "(observation, reward, terminated, truncated, info)"}[count]
    got = f"{len(answer)} values" if isinstance(answer, tuple) else f"a {type(answer).__name__}"
    raise UserError(f"{what} gives {got}, not {wanted}: it has not {INTERFACE}")


def _number(reward: Any, what: str) -> float:
    try:
        return float(reward)
    except (TypeError, ValueError):
        raise UserError(f"{what} gives {shown(reward)} as its reward: give a number") from None


def _name(environment: Any) -> str:
    made = getattr(environment, "func", environment)  # of a functools.partial
    return getattr(made, "__qualname__", type(made).__name__)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest(), "big") >> 1
