"""`Keeper`: what a run makes of its finished groups: evidence of what items are worth, and rounds of learning.

Plain Python: the actor that serves it on a cluster is `actors.experience`. Every call but `learn` is quick.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from experience.advice import Advice, Book, Page, state_of
from experience.asking import Prompter
from experience.learning import Ablation, Rounds
from experience.memory import Memory
from experience.practice import WANTED, Practice, is_enough
from experience.records import NOTHING, Example, Experience, PlayedPair, TaskType
from experience.utility import Pair, Utility, is_harmful, item_utilities, utility, without_harm
from trajectories.types import Episode, StopReason

MOST_PAIRS = 1000
"""Latest pairs of a type that count."""


@dataclass(frozen=True, slots=True)
class PlayedGroup:
    """A finished group of a run.

    Attributes:
        id: of the run and the group, the same when it is played again.
        advice: what it was told.
        example: one of its episodes as a practised example, where new advice is made; None: none.
    """

    id: str
    advice: Advice
    episodes: Sequence[Episode]
    example: Example | None = None

    def pair(self) -> PlayedPair | None:
        """Both halves' success; None where one is missing, or no item was in the prompts."""
        members = [episode for episode in self.episodes if episode.stop_reason is not StopReason.ERROR]
        told = [episode for episode in members if episode.memory_ids]
        plain = [episode for episode in members if episode.memory_snapshot is None]
        if not told or not plain:
            return None
        advice = self.advice
        return PlayedPair(
            self.id,
            advice.type_id,
            advice.state,
            advice.snapshot,
            told[0].memory_ids,
            with_experience=sum(one.success for one in told) / len(told),
            without=sum(one.success for one in plain) / len(plain),
            played_at=time.time(),
        )


class Keeper:
    """The types of a run's tasks: what is known of them, what it is worth, and what is still to be learned from.

    Args:
        types: of all tasks that the run plays, as `experience.advice.type_of` gives them.
        half_life: of evidence, in pairs of a type.
        read_only: nothing is written, and the book stays as it is.
        prompter: asks the chat model that makes advice; None: nothing new is learned.
    """

    def __init__(
        self,
        memory: Memory,
        types: Iterable[TaskType],
        half_life: float = math.inf,
        read_only: bool = False,
        prompter: Prompter | None = None,
    ) -> None:
        self._memory = memory
        self._types = {known.id: known for known in types}
        self._half_life, self._read_only = half_life, read_only
        self._rounds = Rounds(prompter, memory, Ablation()) if prompter else None
        self._pairs = {name: {pair.id: pair for pair in memory.pairs_of(name)} for name in self._types}
        self._examples: dict[str, list[Example]] = {name: [] for name in self._types}
        self._learning: set[str] = set()
        self.counts: Counter[str] = Counter()
        self._pages = {name: self._page(name) for name in self._types}

    def book(self) -> Book:
        """What prompts are made of now."""
        return Book(self._memory.snapshot, dict(self._pages))

    def note(self, group: PlayedGroup) -> None:
        """Take a finished group in. Raises what the memory raises."""
        type_id = group.advice.type_id
        if pair := group.pair():
            self._pairs[type_id][pair.id] = pair
            self.counts["pairs"] += 1
            if not self._read_only:
                self._memory.add_pair(pair)
                self._sort_out(type_id)
                self._pages[type_id] = self._page(type_id)
        if group.example is not None:
            self._examples[type_id].append(group.example)

    def due(self, type_id: str) -> bool:
        """Whether the type's episodes make a round of learning, and none is under way."""
        if self._rounds is None or type_id in self._learning or len(self._examples[type_id]) < WANTED:
            return False
        return not is_enough(self._known(type_id))

    async def learn(self, type_id: str) -> None:
        """A round of learning on the latest episodes of a type, which are used up where it succeeds. Raises StepFailed
        and what the model raises, with nothing stored."""
        assert self._rounds is not None
        examples = self._examples[type_id][-WANTED:]
        self._learning.add(type_id)

        async def played(experience: Experience) -> Practice:
            return Practice(tuple(examples))

        try:
            await self._rounds.learn(self._known(type_id), examples[-1].id, played)
            self._examples[type_id] = []
            self.counts["rounds"] += 1
        except BaseException:
            self._examples[type_id] = examples[1:]  # the next group that comes has it tried again
            self.counts["rounds_failed"] += 1
            raise
        finally:
            self._learning.discard(type_id)
        self._pages[type_id] = self._page(type_id)

    def gauges(self) -> dict[str, float]:
        """Where it stands: `snapshot`, `types` and `items` known, `utility` of all pairs with its interval, and counts
        of pairs, rounds, items dropped and states rolled back since the run was started."""
        pairs = [pair for type_id in self._types for pair in self._evidence(type_id)]
        worth = utility(pairs, self._half_life)
        items = [len(page.experience.items) for page in self._pages.values()]
        found = {"snapshot": self._memory.snapshot, "types": sum(map(bool, items)), "items": sum(items)}
        found |= {name: self.counts[name] for name in ("pairs", "rounds", "rounds_failed", "dropped", "rolled_back")}
        worths = {"utility": worth.difference, "utility_low": worth.low, "utility_high": worth.high}
        return {name: float(value) for name, value in (found | worths).items()}

    def utilities(self, type_id: str) -> dict[str, Utility]:
        """Of every item of a type."""
        ids = [item.id for item in self._known(type_id).experience.items]
        return item_utilities(ids, self._evidence(type_id), self._half_life)

    def _sort_out(self, type_id: str) -> None:
        """Roll a state that does harm back to the one before its round, else drop the items that do."""
        if type_id in self._learning:
            return  # its round would write over this
        known = self._known(type_id)
        state = state_of(known.experience)
        harms = known.rounds and is_harmful(utility(self._evidence(type_id, state), self._half_life))
        if harms and (before := self._before(known)) is not None:
            self._memory.roll_back(type_id, before)
            self.counts["rolled_back"] += 1
            return
        kept = without_harm(known.experience, self.utilities(type_id))
        if lost := len(known.experience.items) - len(kept.items):
            self._memory.revise(type_id, kept)
            self.counts["dropped"] += lost

    def _before(self, known: TaskType) -> int | None:
        """The latest snapshot in which the type had fewer rounds behind it; so that no state is rolled forward."""
        for snapshot in reversed(self._memory.snapshots):
            then = self._memory.types(snapshot).get(known.id)
            if then is None or then.rounds < known.rounds:
                return snapshot
        return None

    def _evidence(self, type_id: str, state: str | None = None) -> list[Pair]:
        """The latest pairs of a type, aged by how many came later; those of one state of it, or all."""
        played = sorted(self._pairs[type_id].values(), key=lambda pair: pair.played_at)[-MOST_PAIRS:]
        return [
            Pair(frozenset(pair.item_ids), pair.with_experience, pair.without, float(len(played) - number))
            for number, pair in enumerate(played, start=1)
            if state in (None, pair.state)
        ]

    def _known(self, type_id: str) -> TaskType:
        return self._memory.get(type_id) or replace(self._types[type_id], experience=NOTHING)

    def _page(self, type_id: str) -> Page:
        return Page.of(self._known(type_id).experience, self.utilities(type_id))
