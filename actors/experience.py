"""Experience on the cluster: an actor that keeps a run's memory, beside the rollouts and off their path."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from ray.actor import ActorHandle

from actors import runtime
from actors.policy_chat import PolicyChat, ServedPolicy
from experience.advice import Advice, Book
from experience.asking import Prompter, Spending, StepFailed
from experience.experience_settings import ExperienceSettings
from experience.keeper import Keeper, PlayedGroup
from experience.memory import Memory
from experience.protocols import ChatModel
from experience.records import Example, TaskType
from trajectories.chat import ChatTokenizer
from trajectories.errors import ConcertoError, last_line
from trajectories.schema import episodes_from_table, sequences_from_table
from trajectories.types import Episode, StopReason
from trajectories.types import Sequence as Tokens

MOST_TEXT = 4000
"""Characters of an episode's task, and of what was done, that a chat model reads."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Told:
    """What a run hears back.

    Attributes:
        book: what prompts are made of from now on.
        gauges: see `Keeper.gauges`, and the tokens that every step has cost.
        trouble: why the latest round of learning failed; empty where it did not.
    """

    book: Book
    gauges: dict[str, float]
    trouble: str = ""


class ExperienceActor:
    """Takes finished groups in and says what is known now. Rounds of learning run in the background, one at a time.

    A plain class: it runs inline, or as an asynchronous Ray actor. The memory is opened with the first call.

    Args:
        memory: path or URI.
        types: of the run's tasks.
        policy: its tokenizer reads episodes; its engines make advice of them, where the settings say so.
        snapshot: that the memory returns to before the first call, where a run goes on from a checkpoint.
    """

    def __init__(
        self,
        memory: str,
        types: Sequence[TaskType],
        settings: ExperienceSettings,
        policy: ServedPolicy,
        snapshot: int | None = None,
    ) -> None:
        self._path, self._types, self._settings, self._policy = memory, types, settings, policy
        self._snapshot = snapshot
        self._keeper: Keeper | None = None
        self._prompter: Prompter | None = None
        self._tokenizer: ChatTokenizer | None = None
        self._round: asyncio.Task[None] | None = None
        self._trouble = ""

    async def told(self) -> Told:
        """What is known now. Raises UserError where the memory cannot be used."""
        keeper = self._ready()
        tokens = self._prompter.spending.totals() if self._prompter else {}
        spent = {
            f"{step}_tokens": float(counts["prompt_tokens"] + counts["completion_tokens"])
            for step, counts in tokens.items()
        }
        return Told(keeper.book(), keeper.gauges() | spent, self._trouble)

    async def observe(self, name: str, advice: Advice, episodes: pa.Table, sequences: pa.Table | None) -> Told:
        """Take in a finished group, whose tables Ray hands over in shared memory.

        Args:
            name: of the run and the group.
            sequences: None where nothing new is learned.
        """
        keeper, rows = self._ready(), episodes_from_table(episodes)
        keeper.note(PlayedGroup(name, advice, rows, self._example(name, advice, rows, sequences)))
        if self._round is None and keeper.due(advice.type_id):
            self._round = asyncio.create_task(self._learn(keeper, advice.type_id))
        return await self.told()

    def _ready(self) -> Keeper:
        if self._keeper is None:
            settings = self._settings
            if settings.learns:
                from experience.sentence_embedder import MINILM, SentenceEmbedder  # takes seconds

                embedder = SentenceEmbedder.load(settings.embedder or MINILM, "experience.embedder")
                memory = Memory.open(self._path, embedder)
                self._prompter = Prompter(self._chat(), Spending(settings.token_budget))
                self._tokenizer = ChatTokenizer.from_pretrained(self._policy.model)
            else:
                memory = Memory.inspect(self._path)
            if self._snapshot is not None and self._snapshot != memory.snapshot and not settings.read_only:
                memory.restore(self._snapshot)
            self._keeper = Keeper(memory, self._types, settings.half_life, settings.read_only, self._prompter)
        return self._keeper

    def _chat(self) -> ChatModel:
        settings = self._settings
        if settings.by_policy:
            return PolicyChat(self._policy.engines)
        from experience.openai_chat import OpenAIChat, OptionNames  # takes seconds

        return OpenAIChat(settings.base_url or "", settings.model or "", names=OptionNames.of_section("experience"))

    async def _learn(self, keeper: Keeper, type_id: str) -> None:
        try:
            await keeper.learn(type_id)
            self._trouble = ""
        except (StepFailed, ConcertoError) as error:
            self._trouble = last_line(error)
        except Exception as error:  # nobody awaits this task: whatever it is, it is told
            logger.exception("a round of learning failed")
            self._trouble = f"{type(error).__name__}: {last_line(error)}"
        finally:
            self._round = None

    def _example(
        self, name: str, advice: Advice, rows: Sequence[Episode], sequences: pa.Table | None
    ) -> Example | None:
        """The group's first member as a practised example: the environment has judged it."""
        if sequences is None or self._tokenizer is None:
            return None
        episode = rows[0]
        own = [one for one in sequences_from_table(sequences) if one.episode_id == episode.episode_id]
        if episode.stop_reason is StopReason.ERROR or not own:
            return None
        task, done = transcript(self._tokenizer, own)
        verdict = "correct" if episode.success else "wrong"
        return Example(f"{name}/{episode.member}", advice.type_id, "", task, done, verdict, (verdict,))


def transcript(tokenizer: ChatTokenizer, sequences: Sequence[Tokens]) -> tuple[str, str]:
    """(task, what was done) of an episode in words: the first prompt without its block of experience, and what came
    after it; with one sequence a turn, the responses alone. Both are cut at `MOST_TEXT` characters, what was done at
    its beginning, since the end tells how it went."""
    first = sequences[0]
    start = first.turns[0].start
    task = tokenizer.action(first.token_ids[:start].tolist()).rpartition("</experience>")[2].strip()
    if len(sequences) == 1:
        done = tokenizer.action(first.token_ids[start:].tolist())
    else:
        turns = [one.token_ids[turn.start : turn.end].tolist() for one in sequences for turn in one.turns]
        done = "\n".join(map(tokenizer.action, turns))
    return task[:MOST_TEXT], done[-MOST_TEXT:]


def start_experience(
    memory: str,
    types: Sequence[TaskType],
    settings: ExperienceSettings,
    policy: ServedPolicy,
    snapshot: int | None,
    options: Mapping[str, Any],
) -> ActorHandle:
    """An `ExperienceActor` as a Ray actor, on a CPU. Ray does not restart it: a run goes on without experience.

    Args:
        options: Ray's actor options: name, scheduling_strategy, …
    """
    return runtime.start(ExperienceActor, {"num_cpus": 0, **options}, memory, types, settings, policy, snapshot)
