"""`WebShopEnvironment`: one shopper, one goal at a time."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, get_args

from envs.base import Observation, StepResult
from envs.webshop.catalogue import Catalogue, open_catalogue
from envs.webshop.expert import OracleExpert
from envs.webshop.goals import GOAL_KINDS, SPLIT_STARTS, Goal, GoalKind, split_range
from envs.webshop.nouns import Tagger
from envs.webshop.pages import (
    Node,
    ObservationMode,
    Page,
    Situation,
    clickables,
    follow,
    nodes,
    parse_action,
    render,
)
from envs.webshop.reward import Score, score_purchase
from envs.webshop.settings import WebShopSettings
from trajectories.errors import UserError

DEFAULTS = WebShopSettings()
REWARD_NAMES = (
    "success",
    "score",
    "type",
    "attribute",
    "option",
    "price",
    "format",
    "action_validity",
    "efficiency",
)
NO_SCORE = Score(score=0.0, type=0.0, attribute=0.0, option=0.0, price=0.0)
SHORTEST_WITHOUT_OPTIONS = 3
"""Search, open, buy."""


class WebShopEnvironment:
    """WebShop (Yao et al. 2022, arXiv 2207.01206): find and buy the product that an instruction asks for.

    The task id is the index of a goal in the canonical order. Nothing is random: the seed of `reset` changes nothing.

    Actions: `search[words]` on every page, `click[text]` of something that is shown; all else does nothing.
    Observations list the clicks in the original's order; the search page's own button does nothing there either and is
    not listed, `can_search` tells of the search box instead. Nor is an option whose text has a "[" or a line break: the
    original reads an action from the last "[" on, so that nothing can choose it. The words `<r>`, `<a>`, `<c>`, `<q>`
    at the head of a search, by which the original lists products at random or by attribute, category or query, are
    ordinary words here: a shopper that found them would see the goal's products without searching.

    Rewards of a step. `score` (the original's reward) and its parts `type`, `attribute`, `option` and `price` come with
    the purchase and are 0 before; `success` is 1 where `score` is 1. `format`: 1 if the action reads `search[...]` or
    `click[...]`. `action_validity`: 1 if it was accepted. `efficiency`: with a successful purchase, the fewest steps
    that can do it (search, open, one click an option, buy) over the steps taken; else 0.

    Args:
        data: folder with the original's files; None for the installed ones, or the generated catalogue if there are
            none; "generated" for the generated one in any case.
        observation_mode: `text` or `text_rich`, as in the original.
        goals: `synthetic`, or `human` where the data has instructions written by people.
        tagger: finds nouns for the type reward; see `envs.webshop.nouns`.
    Raises:
        UserError: no such data, or no goals of this kind in it.
    """

    reward_names = REWARD_NAMES

    def __init__(
        self,
        data: str | Path | None = None,
        *,
        observation_mode: ObservationMode = "text",
        goals: GoalKind = "synthetic",
        tagger: Tagger = "textblob",
    ) -> None:
        if observation_mode not in get_args(ObservationMode):
            raise UserError(
                f"no observation_mode {observation_mode!r}; choose one of {', '.join(get_args(ObservationMode))}"
            )
        self._catalogue = _with_goals(data, goals, tagger)
        self._mode: ObservationMode = observation_mode
        self._goal_kind: GoalKind = goals
        self._goal: Goal | None = None
        self._situation = Situation()
        self._page: list[Node] = []
        self._steps = 0

    @property
    def catalogue(self) -> Catalogue:
        return self._catalogue

    @property
    def goal(self) -> Goal:
        """The current goal. Raises RuntimeError before the first reset."""
        if self._goal is None:
            raise RuntimeError("call reset first")
        return self._goal

    def reset(self, task_id: str, seed: int = 0) -> Observation:
        """Start shopping for goal `task_id`. Raises UserError."""
        del seed
        index = self._index(task_id)
        self._goal = self._catalogue.goal(self._goal_kind, index)
        self._steps = 0
        self._situation = Situation()
        return self._show(NO_SCORE)

    def _index(self, task_id: str) -> int:
        count = self._catalogue.goal_count(self._goal_kind)
        if task_id.isascii() and task_id.isdecimal() and str(int(task_id)) == task_id and int(task_id) < count:
            return int(task_id)
        raise UserError(f"no WebShop task {task_id[:40]!r}; task ids are the numbers 0 to {count - 1}")

    def step(self, action: str) -> StepResult:
        """Apply one action. Raises RuntimeError before the first reset and after the purchase."""
        goal = self.goal
        if self._situation.page is Page.DONE:
            raise RuntimeError("the episode has ended; call reset")
        self._steps += 1
        parsed = parse_action(action)
        well_formed = parsed is not None and parsed[0] in ("search", "click")
        followed = None if parsed is None else follow(self._situation, *parsed, self._page, self._catalogue)
        if followed is not None:
            self._situation = followed
        done = self._situation.page is Page.DONE
        score = self._judge() if done else NO_SCORE
        rewards = {
            "success": float(score.success),
            "score": score.score,
            "type": score.type,
            "attribute": score.attribute,
            "option": score.option,
            "price": score.price,
            "format": float(well_formed),
            "action_validity": float(followed is not None),
            "efficiency": (SHORTEST_WITHOUT_OPTIONS + len(goal.options)) / self._steps if score.success else 0.0,
        }
        rewards["efficiency"] = min(1.0, rewards["efficiency"])
        info = {"action_valid": followed is not None, "state_hash": self._state_hash()}
        return StepResult(self._show(score), rewards, done, info)

    def expert(self, seed: int = 0) -> OracleExpert:
        """A new expert for episodes of this environment; it knows the goal that `reset` has set."""
        return OracleExpert(self, seed)

    def close(self) -> None:
        """Nothing to free: the catalogue is shared by all environments of the process."""

    def _judge(self) -> Score:
        row = self._situation.row
        bought, price = self._catalogue.product(row), self._catalogue.price(row)
        return score_purchase(bought, self._situation.options, price, self.goal)

    def _show(self, score: Score) -> Observation:
        self._page = nodes(self._situation, self.goal, self._catalogue, score.score)
        return Observation(
            text=render(self._page, self._situation, self._mode),
            admissible_actions=tuple(
                action
                for text in clickables(self._page)
                if text != "search" and parse_action(action := f"click[{text}]") == ("click", text)
            ),
            can_search=self._situation.page is Page.SEARCH,
        )

    def _state_hash(self) -> int:
        """Of the goal and the situation, whatever led there; the same in every process. 63 bits."""
        state = (self._goal_kind, self.goal.index, self._situation.page.value, *self._place())
        return int.from_bytes(hashlib.blake2b(repr(state).encode(), digest_size=8).digest(), "big") >> 1

    def _place(self) -> tuple[object, ...]:
        if self._situation.page is Page.RESULTS:
            return self._situation.hits, self._situation.number
        return self._situation.row, sorted(self._situation.options)


def _with_goals(data: str | Path | None, goals: GoalKind, tagger: Tagger) -> Catalogue:
    if goals not in GOAL_KINDS:
        raise UserError(f"no goals {goals!r}; choose one of {', '.join(GOAL_KINDS)}")
    catalogue = open_catalogue(data, tagger)
    if not catalogue.goal_count(goals):
        raise UserError(f"the {data or 'default'} catalogue has no {goals} goals; choose other goals or other data")
    return catalogue


@dataclass(frozen=True)
class WebShopTasks:
    """The goals of one kind as tasks: test 0-499, dev 500-1499, train from 1500, whoever asks and however seeded."""

    train_split: ClassVar = "train"
    heldout_split: ClassVar = "dev"
    test_splits: ClassVar = ("test", "dev")
    catalogue: Catalogue
    goals: GoalKind

    def task_ids(self, split: str) -> tuple[str, ...]:
        """Task ids in canonical order. Raises UserError if there is no such split."""
        return tuple(map(str, split_range(split, self.catalogue.goal_count(self.goals))))

    def why_empty(self, split: str) -> str:
        """A small catalogue has too few goals for all splits."""
        count, first = self.catalogue.goal_count(self.goals), SPLIT_STARTS[split]
        return (
            f"its goals begin with number {first}, but a catalogue of {len(self.catalogue)} gives {count} {self.goals} "
            f"goals: give products with more than {first}, as `concerto data webshop` does, or name another split"
        )

    def content_hash(self, task_id: str) -> str:
        """Of all products and the frozen prices: any product can change what a search finds."""
        return self.catalogue.manifest.content_hash


def open_environment(data: str | Path | None = None, settings: WebShopSettings = DEFAULTS) -> WebShopEnvironment:
    """See `WebShopEnvironment`."""
    return WebShopEnvironment(data, observation_mode=settings.observation_mode, goals=_goals(settings))


def open_tasks(data: str | Path | None = None, settings: WebShopSettings = DEFAULTS) -> WebShopTasks:
    """Raises UserError if there are no such goals."""
    return WebShopTasks(_with_goals(data, _goals(settings), "textblob"), _goals(settings))


def _goals(settings: WebShopSettings) -> GoalKind:
    return "human" if settings.human_goals else "synthetic"
