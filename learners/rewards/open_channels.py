"""Reward channels that no environment gives: they need the policy's own view, or another model's (MAESTRO's five).

`entropy` and `length` can be told of any episode, `reference` and `preference` of questions. `format` comes from the
environment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from envs.questions.library import QuestionLibrary
from envs.questions.question import Question
from envs.questions.scoring import reasoning
from learners.rewards import channels
from learners.rewards.channels import Reading, TokenValues
from learners.rewards.reward_settings import RewardSettings
from trajectories import types
from trajectories.chat import ChatTokenizer
from trajectories.errors import UserError
from trajectories.schema import episodes_from_table, sequences_from_table, sequences_to_table
from trajectories.types import Episode, StopReason

if TYPE_CHECKING:
    from learners.rewards.preference import PreferenceModel

OF_ANY_EPISODE = ("entropy", "length")
OF_QUESTIONS = (*OF_ANY_EPISODE, "reference", "preference")
KL = "kl"
"""Not a channel but a penalty: how far the policy has moved, where that is part of the rewards."""
READ = frozenset({"entropy", "reference"})
"""Channels for which the policy reads."""
_OWN = frozenset({"entropy", KL})
"""What is made of a reading of the episodes as they were played."""


class OpenChannels:
    """Says what the policy must read, and makes channels of what it read.

    Args:
        names: channels to give, among `OF_QUESTIONS` and `KL`.
        tokenizer: the policy's.
        response_limit: most tokens of one response.
        reward: says how `entropy` and `length` are made, and by which model `preference`.
        questions: data of the questions, as `QuestionLibrary.open` takes it.
    Raises:
        UserError: there are no such questions, or no such model.
    """

    def __init__(
        self,
        names: Sequence[str],
        tokenizer: ChatTokenizer,
        response_limit: int,
        reward: RewardSettings | None = None,
        questions: str | None = None,
    ) -> None:
        self._names, self._tokenizer, self._limit = tuple(names), tokenizer, response_limit
        self._reward = reward or RewardSettings()
        asked = {"reference", "preference"} & set(names)
        self._library = QuestionLibrary.open(questions) if asked else None
        self._preference = _preference_model(self._reward.preference_model or "") if "preference" in names else None

    def to_read(self, episodes: pa.Table, sequences: pa.Table) -> pa.Table:
        """The sequences that the policy must read: first the episodes' own, then each with the reference answer.

        Raises:
            UserError: an episode has no response.
        """
        sound, own = _sound(episodes, sequences)
        rows = [row for name in sound for row in own[name]] if not _OWN.isdisjoint(self._names) else []
        if "reference" in self._names:
            rows += [self._with_reference(episode, own[name][-1]) for name, episode in sound.items()]
        return sequences_to_table(rows)

    def values(self, episodes: pa.Table, sequences: pa.Table, reading: Reading | None) -> Mapping[str, list[float]]:
        """Each channel with a value for every sound episode, in order.

        Args:
            reading: the policy's reading of what `to_read` gave; None where nothing was to be read.
        Raises:
            UserError: an episode has no response, or one without a token.
        """
        sound, own = _sound(episodes, sequences)
        found: dict[str, list[float]] = {}
        if "length" in self._names:
            tokens = [sum(int(row.trained.sum()) for row in own[name]) for name in sound]
            turns = [max(episode.turns, 1) for episode in sound.values()]
            shares = [count / many for count, many in zip(tokens, turns, strict=True)]
            shape, target = self._reward.length_shape, self._reward.length_target
            found["length"] = channels.length(shares, self._limit, shape, target).tolist()
        if "entropy" in self._names:
            assert reading is not None
            pooled = _pooled(reading.entropies, own)
            found["entropy"] = channels.mean_entropy(pooled, self._reward.entropy_sign, list(sound)).tolist()
        if KL in self._names:
            assert reading is not None
            now, initial = (_pooled(values, own) for values in (reading.logprobs, reading.initial))
            found[KL] = channels.divergence(now, initial, list(sound)).tolist()
        if "reference" in self._names:
            assert reading is not None
            lengths = [len(self._reasoning(own[name][-1])) for name in sound]
            found["reference"] = channels.reference(reading.logprobs[-len(sound) :], lengths, list(sound)).tolist()
        if self._preference is not None:
            prompts = [self._question(episode).prompt for episode in sound.values()]
            responses = [self._response(own[name][-1]) for name in sound]
            found["preference"] = self._preference.score(prompts, responses).tolist()
        return found

    def _with_reference(self, episode: Episode, sequence: types.Sequence) -> types.Sequence:
        """Prompt and reasoning as they were, then the solution in place of the response's own answer."""
        prompt = sequence.token_ids[: int(np.argmax(sequence.trained))].tolist()
        # Byte-level tokenizers keep a blank with the word that follows it.
        blank = " " if reasoning(self._response(sequence)).endswith(" ") else ""
        solution = self._tokenizer.encode(self._tokenizer.quote(blank + self._question(episode).solution))
        before = [*prompt, *self._reasoning(sequence)]
        ids = np.array([*before, *solution], np.int32)
        return replace(
            sequence,
            sequence_id=f"{sequence.sequence_id}/reference",
            token_ids=ids,
            trained=np.arange(len(ids)) >= len(before),
            logprobs=np.zeros(len(ids), np.float32),
            turns=(),
            version_spans=(),
        )

    def _reasoning(self, sequence: types.Sequence) -> list[int]:
        return self._tokenizer.encode(reasoning(self._response(sequence)).removesuffix(" "))

    def _response(self, sequence: types.Sequence) -> str:
        return self._tokenizer.action(sequence.token_ids[sequence.trained].tolist())

    def _question(self, episode: Episode) -> Question:
        assert self._library is not None
        return self._library.question(episode.task_id)


def _pooled(values: TokenValues, own: Mapping[str, Sequence[types.Sequence]]) -> TokenValues:
    """The tokens of each episode, of all its sequences; `values` begin with those of the episodes, in order."""
    parts = iter(values)
    return [np.concatenate([next(parts) for _ in rows]) for rows in own.values()]


def _preference_model(name: str) -> PreferenceModel:
    from learners.rewards.preference import PreferenceModel  # here, because it takes seconds and is seldom wanted

    return PreferenceModel(name)


def _sound(episodes: pa.Table, sequences: pa.Table) -> tuple[dict[str, Episode], dict[str, list[types.Sequence]]]:
    """Episodes that ended properly, and the sequences of each. Raises UserError for one without any."""
    sound = {row.episode_id: row for row in episodes_from_table(episodes) if row.stop_reason is not StopReason.ERROR}
    own: dict[str, list[types.Sequence]] = {name: [] for name in sound}
    for sequence in sequences_from_table(sequences):
        if sequence.episode_id in own:
            own[sequence.episode_id].append(sequence)
    if silent := [name for name, rows in own.items() if not rows]:
        raise UserError(
            f"episode {silent[0]} (task {sound[silent[0]].task_id}) has no response, since its prompt leaves no room "
            "for one: raise rollout.engine.max_model_len, or leave the task out"
        )
    return sound, own
