"""A player plays an environment and errs now and then; what was said becomes reading matter."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from envs.base import Environment
from envs.slips import Slips
from learners.tiny.players import Player
from trajectories.chat import Message

SLIP_RATES = (0.0, 0.0, 0.08, 0.08, 0.2)
"""Chances of a slip before a turn; a transcript has one of them."""


@dataclass(frozen=True)
class Transcript:
    """A conversation to learn from.

    Attributes:
        slips: indices of messages that are mistakes: they are read, but not learned.
    """

    messages: list[Message]
    slips: frozenset[int] = frozenset()

    def rewritten(self, change: Callable[[str], str]) -> Transcript:
        """The same with every message's text changed."""
        changed: list[Message] = [{"role": m["role"], "content": change(m["content"])} for m in self.messages]
        return replace(self, messages=changed)


def play(environment: Environment, task_id: str, player: Player, turns: int, rng: random.Random) -> Transcript:
    """Play until the task is solved or the turns are used; user and assistant in turn, an observation last.

    A player does not see its slips: they change nothing in the environment, and it takes its turn after them.
    """
    slips = Slips(rng, rng.choice(SLIP_RATES))
    observation = environment.reset(task_id)
    player.reset(observation)
    messages: list[Message] = [{"role": "user", "content": observation.text}]
    slipped: set[int] = set()
    for _ in range(turns):
        slip = slips.draw(observation)
        if slip is not None:
            slipped.add(len(messages))
        action = player.act(observation) if slip is None else slip
        step = environment.step(action)
        messages.append({"role": "assistant", "content": action})
        messages.append({"role": "user", "content": step.observation.text})
        if slip is None:
            observation = step.observation
        if step.done:
            break
    return Transcript(messages, frozenset(slipped))
