"""The conversations of a program that writes its own prompts, as training sequences. Token in, token out.

A prompt builder is told what the environment shows; this one is told whole lists of messages, as an OpenAI-compatible
endpoint gets them. A list that goes on from the last answer lengthens its sequence, with the sampled tokens as they
are; any other begins a new sequence (`trajectories.builder.align` tells which).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trajectories.builder import Alignment, AlignmentKind, Draft, align
from trajectories.chat import ChatTokenizer, Message
from trajectories.prompt_settings import PromptSettings
from trajectories.types import Sequence


@dataclass(frozen=True, slots=True)
class Question:
    """Messages that wait for an answer.

    Attributes:
        token_ids: int32 [n], what the engine gets.
        rendered: the messages as the chat template writes them.
        alignment: how they go on from the answer before.
    """

    token_ids: npt.NDArray[np.int32]
    rendered: str
    alignment: Alignment


class ChatBuilder:
    """One episode: per answer `ask` and `add_response`, then `close_turn`; at last `sequences`.

    Text of the program's own can never become a control token, whatever its role; only what the model said returns as
    the tokens that it was. An answer that the program sends back changed is text of its own.
    """

    def __init__(self, tokenizer: ChatTokenizer, config: PromptSettings) -> None:
        """Of `config`, the template's options and date are used."""
        self._tokenizer = tokenizer
        self._options = config.template_options
        self._drafts: list[Draft] = []
        self._spoken: dict[str, str] = {}
        """What the model said → the same as `ChatTokenizer.encode` takes it."""
        self.alignments: list[AlignmentKind] = []
        """One an answer; that of the first is a fork."""

    def ask(self, messages: Iterable[Message]) -> Question:
        """The prompt of these messages. Changes nothing, so that a question may stay without an answer.

        Raises whatever the chat template raises that does not take them.
        """
        rendered = self._tokenizer.render([self._quoted(message) for message in messages], options=self._options)
        if not self._drafts:
            alignment = Alignment(AlignmentKind.FORK, self._tokenizer.encode(rendered))
        else:
            draft = self._drafts[-1]
            alignment = align(self._tokenizer, draft.prompt, draft.token_ids[draft.spans[-1].start :], rendered)
        before = [] if alignment.kind is AlignmentKind.FORK else self._drafts[-1].token_ids
        return Question(np.asarray([*before, *alignment.token_ids], np.int32), rendered, alignment)

    def add_response(
        self, question: Question, token_ids: npt.ArrayLike, logprobs: npt.ArrayLike, version: int, finished: bool
    ) -> str:
        """Record exactly these tokens, as `trajectories.builder.PromptBuilder.add_response` does; returns their text.
        The turn before must be closed, and nothing else be recorded since `ask` gave the question."""
        ids: list[int] = np.asarray(token_ids, np.int64).tolist()
        values: list[float] = np.asarray(logprobs, np.float64).tolist()
        if not ids or len(ids) != len(values):
            raise ValueError(f"a response needs one log-probability a token: got {len(ids)} and {len(values)}")
        if question.alignment.kind is AlignmentKind.FORK:
            self._drafts.append(Draft())
        draft = self._drafts[-1]
        draft.add_prompt(question.alignment.token_ids)
        draft.prompt = question.rendered
        draft.add_response(ids, values, version, finished, trained=True)
        self.alignments.append(question.alignment.kind)
        content = ids[:-1] if finished else ids
        text = self._tokenizer.decode(content)
        self._spoken[text] = self._tokenizer.spoken(content)
        return text

    def close_turn(self, reward: float, state_hash: int, action_valid: bool) -> None:
        """What became of the last response. One that stays open is not trained."""
        self._drafts[-1].close_turn(reward, state_hash, action_valid)

    def sequences(self, episode_id: str, group_id: str, temperature: float) -> tuple[Sequence, ...]:
        """The closed turns as training sequences, in order of play."""
        drafts = [draft for draft in self._drafts if draft.teaching()]
        return tuple(
            draft.to_sequence(f"{episode_id}-{index}", episode_id, group_id, temperature)
            for index, draft in enumerate(drafts)
        )

    def _quoted(self, message: Message) -> Message:
        """As `ChatTokenizer.render` takes it, which quotes what users say itself."""
        role, content = message["role"], message["content"]
        if role == "assistant" and content in self._spoken:
            return {"role": role, "content": self._spoken[content]}
        return message if role == "user" else {"role": role, "content": self._tokenizer.quote(content)}
