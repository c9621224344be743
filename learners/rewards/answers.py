"""Answers to questions, taken out of the tables of finished groups: what a reward model or a judge reads."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from envs.questions.library import QuestionLibrary
from envs.questions.question import Question
from trajectories import types
from trajectories.chat import ChatTokenizer
from trajectories.schema import episodes_from_table, sequences_from_table
from trajectories.types import Episode, StopReason


@dataclass(frozen=True, slots=True)
class Answers:
    """B answers: `responses[i]` to `questions[i]`, by a member of the group `groups[i]`."""

    questions: tuple[Question, ...]
    responses: tuple[str, ...]
    groups: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.responses)


@dataclass(frozen=True, slots=True)
class Rating:
    """What somebody makes of some answers.

    Attributes:
        values: one for each answer, in order; higher is better.
        metrics: what that has cost, by names of `cluster.reporting.metric_table`.
    """

    values: Sequence[float]
    metrics: Mapping[str, float]


class Rater(Protocol):
    """Somebody outside this process who rates answers."""

    def rate(self, answers: Answers) -> Rating:
        """Raises ConcertoError where the run cannot go on without."""
        ...


@dataclass(frozen=True, slots=True)
class AnswerReader:
    """Knows the policy's tokens and the questions."""

    tokenizer: ChatTokenizer
    library: QuestionLibrary

    def question(self, episode: Episode) -> Question:
        return self.library.question(episode.task_id)

    def response(self, sequence: types.Sequence) -> str:
        return self.tokenizer.action(sequence.token_ids[sequence.trained].tolist())

    def answers(self, episodes: SoundEpisodes) -> Answers:
        """The last responses of those that have one, in order."""
        return Answers(
            tuple(self.question(episodes.all[name]) for name in episodes.own),
            tuple(self.response(own[-1]) for own in episodes.own.values()),
            tuple(episodes.all[name].group_id for name in episodes.own),
        )


@dataclass(frozen=True, slots=True)
class SoundEpisodes:
    """The episodes of some groups that ended properly, in order.

    Attributes:
        all: by id.
        own: sequences of each that has a response. A prompt that leaves no room for one, or an agent program that ends
            before it asks, makes an episode without.
    """

    all: Mapping[str, Episode]
    own: Mapping[str, Sequence[types.Sequence]]

    @classmethod
    def of(cls, episodes: pa.Table, sequences: pa.Table) -> SoundEpisodes:
        """Those of the tables of some groups."""
        found = {
            row.episode_id: row for row in episodes_from_table(episodes) if row.stop_reason is not StopReason.ERROR
        }
        own: dict[str, list[types.Sequence]] = {name: [] for name in found}
        for sequence in sequences_from_table(sequences):
            if sequence.episode_id in own and sequence.trained.any():
                own[sequence.episode_id].append(sequence)
        return cls(found, {name: rows for name, rows in own.items() if rows})

    def for_all(self, values: Sequence[float]) -> list[float]:
        """A channel's value for every episode, of those of the episodes with a response; one without gets something
        neutral, as `filled` says, and 0 where its group has no response at all."""
        known = dict(zip(self.own, values, strict=True))
        groups = [episode.group_id for episode in self.all.values()]
        return filled([known.get(name) for name in self.all], groups, neutral=0.0)


def filled(values: Sequence[float | None], groups: Sequence[str], neutral: float) -> list[float]:
    """Values without gaps: an episode without one gets the mean of its group, which neither raises nor lowers it among
    the others; `neutral` where the group has none.

    Args:
        groups: name of each episode's group.

    >>> filled([0.2, None, 0.6, None], ["a", "a", "a", "b"], neutral=0.5)
    [0.2, 0.4, 0.6, 0.5]
    """
    known: dict[str, list[float]] = {}
    for value, group in zip(values, groups, strict=True):
        if value is not None:
            known.setdefault(group, []).append(value)
    means = {group: statistics.fmean(of_group) for group, of_group in known.items()}
    return [means.get(group, neutral) if value is None else value for value, group in zip(values, groups, strict=True)]
