"""Answers to questions, taken out of the tables of finished groups: what a reward model or a judge reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from envs.questions.library import QuestionLibrary
from envs.questions.question import Question
from trajectories import types
from trajectories.chat import ChatTokenizer
from trajectories.errors import UserError
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

    def answers(self, episodes: pa.Table, sequences: pa.Table) -> Answers:
        """Those of the sound episodes of some groups, in order. Raises UserError for an episode without any."""
        found, own = sound_episodes(episodes, sequences)
        return Answers(
            tuple(map(self.question, found.values())),
            tuple(self.response(own[name][-1]) for name in found),
            tuple(episode.group_id for episode in found.values()),
        )


def sound_episodes(
    episodes: pa.Table, sequences: pa.Table
) -> tuple[dict[str, Episode], dict[str, list[types.Sequence]]]:
    """Episodes that ended properly, and the sequences of each. Raises UserError for one without any."""
    found = {row.episode_id: row for row in episodes_from_table(episodes) if row.stop_reason is not StopReason.ERROR}
    own: dict[str, list[types.Sequence]] = {name: [] for name in found}
    for sequence in sequences_from_table(sequences):
        if sequence.episode_id in own:
            own[sequence.episode_id].append(sequence)
    if silent := [name for name, rows in own.items() if not rows]:
        raise UserError(
            f"episode {silent[0]} (task {found[silent[0]].task_id}) has no response, since its prompt leaves no room "
            "for one: raise rollout.engine.max_model_len, or leave the task out"
        )
    return found, own
