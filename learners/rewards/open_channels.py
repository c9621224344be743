"""Reward channels that no environment gives: they need the policy's own view, or another model's (MAESTRO's five).

`entropy` and `length` can be told of any episode, `reference`, `preference` and `judge` of questions. `format` comes
from the environment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
from torch import Tensor

from envs.questions.library import QuestionLibrary
from envs.questions.scoring import reasoning
from learners.rewards import channels
from learners.rewards.answers import AnswerReader, Rater, SoundEpisodes
from learners.rewards.channels import Reading, TokenValues
from learners.rewards.reward_settings import RewardSettings
from trajectories import types
from trajectories.chat import ChatTokenizer
from trajectories.schema import sequences_to_table
from trajectories.types import Episode

OF_ANY_EPISODE = ("entropy", "length")
RATED = ("preference", "judge")
"""Channels that somebody else gives: a `Rater`, in processes of its own."""
OF_QUESTIONS = (*OF_ANY_EPISODE, "reference", *RATED)
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
        reward: says how `entropy` and `length` are made.
        questions: data of the questions, as `QuestionLibrary.open` takes it.
        raters: who gives each of the channels `RATED` among the names.
    Raises:
        UserError: there are no such questions.
    """

    def __init__(
        self,
        names: Sequence[str],
        tokenizer: ChatTokenizer,
        response_limit: int,
        reward: RewardSettings | None = None,
        questions: str | None = None,
        raters: Mapping[str, Rater] | None = None,
    ) -> None:
        self._names, self._tokenizer, self._limit = tuple(names), tokenizer, response_limit
        self._reward = reward or RewardSettings()
        self._raters = {name: rater for name, rater in (raters or {}).items() if name in names}
        asks = not {"reference", *RATED}.isdisjoint(names)
        self._reader = AnswerReader(tokenizer, QuestionLibrary.open(questions)) if asks else None

    def to_read(self, episodes: pa.Table, sequences: pa.Table) -> pa.Table:
        """The sequences that the policy must read: first the episodes' own, then each with the reference answer."""
        played = SoundEpisodes.of(episodes, sequences)
        rows = [row for own in played.own.values() for row in own] if not _OWN.isdisjoint(self._names) else []
        if "reference" in self._names:
            rows += [self._with_reference(played.all[name], own[-1]) for name, own in played.own.items()]
        return sequences_to_table(rows)

    def values(self, episodes: pa.Table, sequences: pa.Table, reading: Reading | None) -> Mapping[str, list[float]]:
        """Each channel that is made here, with a value for every sound episode, in order; see `SoundEpisodes.for_all`
        for one without a response.

        Args:
            reading: the policy's reading of what `to_read` gave; None where nothing was to be read.
        Raises:
            UserError: a reference answer has no token.
        """
        played = SoundEpisodes.of(episodes, sequences)
        names, own = list(played.own), played.own
        found: dict[str, Tensor] = {}
        if "length" in self._names:
            shape, target = self._reward.length_shape, self._reward.length_target
            found["length"] = channels.length(_mean_response(own), self._limit, shape, target)
        if "entropy" in self._names:
            assert reading is not None
            found["entropy"] = channels.mean_entropy(_pooled(reading.entropies, own), self._reward.entropy_sign, names)
        if KL in self._names:
            assert reading is not None
            now, initial = (_pooled(values, own) for values in (reading.logprobs, reading.initial))
            found[KL] = channels.divergence(now, initial, names)
        if "reference" in self._names:
            assert reading is not None
            lengths = [len(self._reasoning(rows[-1])) for rows in own.values()]
            behind = reading.logprobs[len(reading.logprobs) - len(own) :]
            found["reference"] = channels.reference(behind, lengths, names)
        return {name: played.for_all(column.tolist()) for name, column in found.items()}

    def rated(self, episodes: pa.Table, sequences: pa.Table) -> tuple[dict[str, Sequence[float]], dict[str, float]]:
        """Each channel that a rater gives, as `values` gives the others, and what the raters cost.

        Raises:
            ConcertoError: a rater cannot go on.
        """
        if not self._raters:
            return {}, {}
        played = SoundEpisodes.of(episodes, sequences)
        answers = self._known.answers(played)
        ratings = {name: rater.rate(answers) for name, rater in self._raters.items()}
        metrics = {key: value for rating in ratings.values() for key, value in rating.metrics.items()}
        return {name: played.for_all(rating.values) for name, rating in ratings.items()}, metrics

    @property
    def _known(self) -> AnswerReader:
        assert self._reader is not None
        return self._reader

    def _with_reference(self, episode: Episode, sequence: types.Sequence) -> types.Sequence:
        """Prompt and reasoning as they were, then the solution in place of the response's own answer."""
        prompt = sequence.token_ids[: int(np.argmax(sequence.trained))].tolist()
        # Byte-level tokenizers keep a blank with the word that follows it.
        blank = " " if reasoning(self._known.response(sequence)).endswith(" ") else ""
        solution = self._tokenizer.encode(self._tokenizer.quote(blank + self._known.question(episode).solution))
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
        return self._tokenizer.encode(reasoning(self._known.response(sequence)).removesuffix(" "))


def _mean_response(own: Mapping[str, Sequence[types.Sequence]]) -> list[float]:
    """Mean tokens of a response of each episode. An agent program may ask several times before it acts."""
    tokens = [sum(int(row.trained.sum()) for row in rows) for rows in own.values()]
    responses = [sum(len(row.turns) for row in rows) for rows in own.values()]
    return [count / many for count, many in zip(tokens, responses, strict=True)]


def _pooled(values: TokenValues, own: Mapping[str, Sequence[types.Sequence]]) -> TokenValues:
    """The tokens of each episode, of all its sequences; `values` begin with those of the episodes, in order."""
    parts = iter(values)
    return [np.concatenate([next(parts) for _ in rows]) for rows in own.values()]
