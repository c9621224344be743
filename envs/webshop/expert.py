"""The oracle: knows the goal, and shows how it is bought. Its searches vary in wording, as a person's would."""

from __future__ import annotations

import random
from typing import Protocol

from envs.base import Observation
from envs.webshop.goals import Goal

PAGES_PER_SEARCH = 2
"""Result pages it looks at before it searches again in other words."""


class HasGoal(Protocol):
    """What the oracle needs to know of its environment."""

    @property
    def goal(self) -> Goal: ...


class OracleExpert:
    """Search, open the goal product, choose its options, buy.

    The first wording is drawn by the seed from four that a shopper would think of, all made from the instruction. If
    the product is not on the first two result pages it goes back and tries the next one, at last the product's title,
    and then stays with that search to its end.
    """

    def __init__(self, environment: HasGoal, seed: int = 0) -> None:
        self._environment = environment
        self._random = random.Random(seed)

    def reset(self, observation: Observation) -> None:
        """Take up the goal that the environment was reset to."""
        self._goal = self._environment.goal
        wordings = search_wordings(self._goal)
        self._random.shuffle(wordings)
        self._searches = [*wordings, self._goal.product_title]
        self._search = 0
        self._pages_seen = 0
        self._options = [option if isinstance(option, str) else option[1] for option in self._goal.options]

    def act(self, observation: Observation) -> str:
        """The next action."""
        if observation.can_search:
            self._pages_seen = 0
            return f"search[{self._searches[self._search]}]"
        admissible = observation.admissible_actions
        if f"click[{self._goal.asin.lower()}]" in admissible:
            return f"click[{self._goal.asin}]"  # as the page shows it: to be copied
        if "click[next >]" in admissible:
            return self._look_further()
        while self._options:
            choose = f"click[{self._options.pop(0)}]"
            if choose in admissible:
                return choose
        return "click[buy now]"

    def _look_further(self) -> str:
        self._pages_seen += 1
        if self._search == len(self._searches) - 1 or self._pages_seen < PAGES_PER_SEARCH:
            return "click[next >]"
        self._search += 1
        return "click[back to search]"


def search_wordings(goal: Goal) -> list[str]:
    """Ways to ask the search engine for the goal, from what its instruction says."""
    values = [option if isinstance(option, str) else option[1] for option in goal.options]
    attributes = list(goal.attributes)
    return [
        " ".join([*attributes, goal.query]),
        " ".join([goal.query, *attributes, *values]),
        " ".join([*values, goal.query, *attributes]),
        goal.instruction.removeprefix("Find me ").split(", and price lower than")[0],
    ]
