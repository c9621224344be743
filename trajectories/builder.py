"""Prompt builders: they turn observations into prompts and responses into training sequences. Token in, token out.

What an environment shows is text from outside: nothing in it becomes a control token (`trajectories.control_tokens`).
What the model produced is never tokenised again: a sequence holds exactly the token ids that were sent to the engine
and exactly the ids that came back. A chat template may render the conversation of the next turn differently from what
was sent before; `align` decides what to do about it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import accumulate
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from trajectories.answers import (
    Answer,
    FormatName,
    as_admissible,
    closes_reasoning,
    opens_reasoning,
    read_answer,
    write_answer,
)
from trajectories.chat import ChatTokenizer, Message
from trajectories.prompt_settings import Instructions, PromptSettings
from trajectories.types import Sequence, Turn, VersionSpan

DEMONSTRATION_VERSION = -1
"""Version of tokens that no policy sampled."""


class Observed(Protocol):
    """What a builder reads of an observation (`envs.base.Observation` is one)."""

    @property
    def text(self) -> str: ...

    @property
    def admissible_actions(self) -> tuple[str, ...]: ...

    @property
    def can_search(self) -> bool: ...


class PromptBuilder(Protocol):
    """One episode: `begin`, then per turn `prompt`, `add_response`, `add_observation`; at last `sequences`."""

    def begin(self, observation: Observed) -> None:
        """Start with the environment's first observation."""
        ...

    def prompt(self) -> npt.NDArray[np.int32]:
        """Token ids to send to the engine now."""
        ...

    @property
    def opened(self) -> bool:
        """The prompt has opened the model's reasoning, see `trajectories.answers.opens_reasoning`."""
        ...

    def add_response(
        self, token_ids: npt.ArrayLike, logprobs: npt.ArrayLike, version: int, finished: bool, trained: bool = True
    ) -> Answer:
        """Record exactly these tokens; returns the action for the environment, or why there is none.

        Args:
            token_ids: int [n], as sampled; the stop token is among them if `finished`.
            logprobs: float [n], under the sampling distribution.
            version: version of the policy that sampled them.
            finished: the last token is a stop token, not the last of a budget.
            trained: they are trained on, and not only read by later turns.
        """
        ...

    def add_observation(self, observation: Observed, reward: float, state_hash: int, action_valid: bool) -> None:
        """Close the turn with what the environment answered."""
        ...

    def sequences(
        self, sequence_id_prefix: str, episode_id: str, group_id: str, temperature: float
    ) -> tuple[Sequence, ...]:
        """The closed turns as training sequences; each ends with its last trained token, and none is without one."""
        ...


class AlignmentKind(StrEnum):
    """How the template's rendering of a conversation relates to the last prompt and the response sampled for it."""

    CLEAN = "clean"
    """It goes on behind the prompt with exactly the sampled tokens: append the rest."""
    REALIGN = "realign"
    """Same text, other tokens (the model spelled an action unlike the tokenizer would): keep ours, append the rest."""
    FORK = "fork"
    """The template rewrote the past (dropped reasoning, trimmed blanks): close this sequence and start another."""


@dataclass(frozen=True, slots=True)
class Alignment:
    """What to append to our tokens (CLEAN, REALIGN) or to put in their place (FORK)."""

    kind: AlignmentKind
    token_ids: list[int]


def align(tokenizer: ChatTokenizer, prompt: str, response_ids: list[int], rendered: str) -> Alignment:
    """Compare `prompt` and the response sampled for it with the template's output `rendered` for the next turn.

    Only what comes after the prompt is encoded: a turn costs what it adds, however long the conversation has become.

    With one token per letter except "go", ours being g+o: align("> ", [g, o], "> go!") is REALIGN with [!];
    ours being go it is CLEAN with [!]; align("> ", [g, o], "> Go!") is FORK with [>, blank, G, o, !].
    """
    if rendered.startswith(prompt):
        since_ids = tokenizer.encode(rendered[len(prompt) :])
        if since_ids[: len(response_ids)] == response_ids:
            return Alignment(AlignmentKind.CLEAN, since_ids[len(response_ids) :])
        text = prompt + tokenizer.spoken(response_ids)
        if rendered.startswith(text):
            return Alignment(AlignmentKind.REALIGN, tokenizer.encode(rendered[len(text) :]))
    return Alignment(AlignmentKind.FORK, tokenizer.encode(rendered))


@dataclass(slots=True)
class Draft:
    """A sequence in the making, and its latest prompt as text."""

    token_ids: list[int] = field(default_factory=list)
    trained: list[bool] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    spans: list[VersionSpan] = field(default_factory=list)
    truncated: bool = False
    """Of the last response."""
    prompt: str = ""

    def add_prompt(self, token_ids: list[int]) -> None:
        self.token_ids += token_ids
        self.trained += [False] * len(token_ids)
        self.logprobs += [0.0] * len(token_ids)

    def add_response(
        self, token_ids: list[int], logprobs: list[float], version: int, finished: bool, trained: bool
    ) -> None:
        start = len(self.token_ids)
        self.token_ids += token_ids
        self.trained += [trained] * len(token_ids)
        self.logprobs += logprobs
        self.spans.append(VersionSpan(start, len(self.token_ids), version))
        self.truncated = not finished

    def close_turn(self, reward: float, state_hash: int, action_valid: bool) -> None:
        span = self.spans[-1]
        self.turns.append(Turn(span.start, span.end, reward, state_hash, action_valid, self.truncated))

    def teaching(self) -> list[Turn]:
        """The closed turns, up to the last one that is trained."""
        trained = [number for number, turn in enumerate(self.turns, 1) if self.trained[turn.start]]
        return self.turns[: trained[-1]] if trained else []

    def to_sequence(self, sequence_id: str, episode_id: str, group_id: str, temperature: float) -> Sequence:
        """Cut behind the last trained turn: neither an unanswered prompt nor an action that was never played trains."""
        turns = self.teaching()
        end = turns[-1].end
        return Sequence(
            sequence_id=sequence_id,
            episode_id=episode_id,
            group_id=group_id,
            token_ids=np.asarray(self.token_ids[:end], np.int32),
            trained=np.asarray(self.trained[:end], np.bool_),
            logprobs=np.asarray(self.logprobs[:end], np.float32),
            turns=tuple(turns),
            version_spans=tuple(self.spans[: len(turns)]),
            temperature=temperature,
        )


class _Builder:
    """What both modes share: the drafts of an episode and the bookkeeping of responses."""

    def __init__(
        self, tokenizer: ChatTokenizer, config: PromptSettings, instructions: Instructions | None = None
    ) -> None:
        self._tokenizer = tokenizer
        self._config = config
        self._instructions = instructions or Instructions(config.system)
        self._admissible: tuple[str, ...] = ()
        self._searches = False
        """The environment has shown a search box: it takes searches, also where it shows none (WebShop)."""
        self._drafts = [Draft()]

    def prompt(self) -> npt.NDArray[np.int32]:
        return np.asarray(self._drafts[-1].token_ids, np.int32)

    @property
    def opened(self) -> bool:
        return opens_reasoning(self._drafts[-1].prompt)

    def sequences(
        self, sequence_id_prefix: str, episode_id: str, group_id: str, temperature: float
    ) -> tuple[Sequence, ...]:
        drafts = [draft for draft in self._drafts if draft.teaching()]
        return tuple(
            draft.to_sequence(f"{sequence_id_prefix}-{index}", episode_id, group_id, temperature)
            for index, draft in enumerate(drafts)
        )

    def _record(
        self, token_ids: npt.ArrayLike, logprobs: npt.ArrayLike, version: int, finished: bool, trained: bool
    ) -> list[int]:
        ids: list[int] = np.asarray(token_ids, np.int64).tolist()
        values: list[float] = np.asarray(logprobs, np.float64).tolist()
        if not ids or len(ids) != len(values):
            raise ValueError(
                f"a response needs one log-probability a token: got {len(ids)} tokens, {len(values)} values"
            )
        self._drafts[-1].add_response(ids, values, version, finished, trained)
        return ids

    def _answer(self, ids: list[int], finished: bool) -> Answer:
        if not self._config.format:
            return Answer(self._tokenizer.action(ids))
        content = ids[:-1] if finished else ids
        reasons = self.opened and not closes_reasoning(self._tokenizer.decode(content))
        answer = read_answer(self._config.format, self._tokenizer.answer(content), finished, reasons)
        if answer.violation:
            return answer
        aliases = self._instructions.aliases
        return replace(answer, action=as_admissible(answer.action, self._admissible, aliases, self._searches))

    def _open(self, prompt: str) -> None:
        """Begin the last draft."""
        draft = self._drafts[-1]
        draft.prompt = prompt
        draft.add_prompt(self._tokenizer.encode(prompt))

    def _render(self, messages: list[Message]) -> str:
        return self._tokenizer.render(messages, options=self._config.template_options)

    def _system(self) -> list[Message]:
        return [{"role": "system", "content": self._instructions.system}] if self._instructions.system else []

    def _advised(self, text: str) -> str:
        """What the user says, under the experience with such tasks where there is some."""
        return f"{self._instructions.advice}\n\n{text}" if self._instructions.advice else text

    def _observation_text(self, observation: Observed) -> str:
        self._admissible = observation.admissible_actions
        self._searches = self._searches or observation.can_search
        if not self._config.list_actions:
            return observation.text
        search = ("search[words]",) if observation.can_search else ()
        return f"{observation.text}\nAdmissible actions: {self._listed((*search, *observation.admissible_actions))}"

    def _listed(self, actions: tuple[str, ...]) -> str:
        """As many as `max_listed_tokens` holds, and how many more there are."""
        room = self._config.max_listed_tokens
        if len(self._tokenizer.encode(whole := ", ".join(actions))) <= room:
            return whole
        ends = accumulate(len(self._tokenizer.encode(f"{action}, ")) for action in actions)
        shown = sum(end <= room for end in ends)
        return ", ".join((*actions[:shown], f"and {len(actions) - shown} more"))


class TranscriptBuilder(_Builder):
    """One append-only conversation; it forks only where the chat template rewrites the past."""

    def __init__(
        self, tokenizer: ChatTokenizer, config: PromptSettings, instructions: Instructions | None = None
    ) -> None:
        super().__init__(tokenizer, config, instructions)
        self._messages: list[Message] = []
        self.alignments: list[AlignmentKind] = []
        """One a turn after the first."""

    def begin(self, observation: Observed) -> None:
        first = self._advised(self._observation_text(observation))
        self._messages = [*self._system(), {"role": "user", "content": first}]
        self._open(self._render(self._messages))

    def add_response(
        self, token_ids: npt.ArrayLike, logprobs: npt.ArrayLike, version: int, finished: bool, trained: bool = True
    ) -> Answer:
        ids = self._record(token_ids, logprobs, version, finished, trained)
        content = self._tokenizer.spoken(ids[:-1] if finished else ids)
        self._messages.append({"role": "assistant", "content": content})
        return self._answer(ids, finished)

    def add_observation(self, observation: Observed, reward: float, state_hash: int, action_valid: bool) -> None:
        draft = self._drafts[-1]
        draft.close_turn(reward, state_hash, action_valid)
        self._messages.append({"role": "user", "content": self._observation_text(observation)})
        rendered = self._render(self._messages)
        response_ids = draft.token_ids[draft.turns[-1].start :]
        alignment = align(self._tokenizer, draft.prompt, response_ids, rendered)
        if alignment.kind is AlignmentKind.FORK:
            draft = Draft()
            self._drafts.append(draft)
        draft.add_prompt(alignment.token_ids)
        draft.prompt = rendered
        self.alignments.append(alignment.kind)


class WindowedBuilder(_Builder):
    """One prompt a turn: the first observation (it states the task), the last `window` steps, the current one."""

    def __init__(
        self, tokenizer: ChatTokenizer, config: PromptSettings, instructions: Instructions | None = None
    ) -> None:
        super().__init__(tokenizer, config, instructions)
        self._observations: list[Observed] = []
        self._actions: list[str] = []

    def begin(self, observation: Observed) -> None:
        self._observations = [observation]
        self._open(self._window())

    def add_response(
        self, token_ids: npt.ArrayLike, logprobs: npt.ArrayLike, version: int, finished: bool, trained: bool = True
    ) -> Answer:
        answer = self._answer(self._record(token_ids, logprobs, version, finished, trained), finished)
        self._actions.append("(no action)" if answer.violation else answer.action)
        return answer

    def add_observation(self, observation: Observed, reward: float, state_hash: int, action_valid: bool) -> None:
        self._drafts[-1].close_turn(reward, state_hash, action_valid)
        self._observations.append(observation)
        self._drafts.append(Draft())
        self._open(self._window())

    def _window(self) -> str:
        taken = len(self._actions)
        shown = range(max(0, taken - self._config.window), taken)
        lines = [self._observations[0].text] if taken else []
        if shown:
            lines.append(f"You have taken {taken} actions. The last {len(shown)}:")
        lines += [f"> {self._actions[step]}\n{self._observations[step + 1].text}" for step in shown[:-1]]
        lines += [f"> {self._actions[step]}" for step in shown[-1:]]
        lines.append(self._observation_text(self._observations[-1]))
        user: Message = {"role": "user", "content": self._advised("\n".join(lines))}
        return self._render([*self._system(), user])


def make_builder(
    tokenizer: ChatTokenizer, config: PromptSettings, instructions: Instructions | None = None
) -> PromptBuilder:
    """The builder of one episode; without instructions the system message is `config.system`."""
    builders: dict[str, Any] = {"transcript": TranscriptBuilder, "windowed": WindowedBuilder}
    return builders[config.mode](tokenizer, config, instructions)


@dataclass(frozen=True, slots=True)
class DemonstratedStep:
    """One action of an expert, what the environment answered, and what the expert thought before, if anything. It is
    `trained` unless it is a slip."""

    action: str
    observation: Observed
    reward: float
    state_hash: int
    action_valid: bool
    thought: str = ""
    trained: bool = True


def add_demonstration(
    builder: PromptBuilder,
    tokenizer: ChatTokenizer,
    first: Observed,
    steps: Iterable[DemonstratedStep],
    format: FormatName = "",
) -> None:
    """Feed an expert's episode to a builder: prompts and turns are exactly what the engine would see, answers are
    written in the format. Its marks may be control tokens, as the model says them; action and thought hold none.

    The log-probabilities are 0 and the version is `DEMONSTRATION_VERSION`: no policy sampled these tokens.
    """
    builder.begin(first)
    for step in steps:
        answer = write_answer(format, step.action, step.thought, builder.opened, tokenizer.quote)
        ids = [*tokenizer.encode(answer), tokenizer.turn_end_id]
        builder.add_response(ids, np.zeros(len(ids), np.float32), DEMONSTRATION_VERSION, True, step.trained)
        builder.add_observation(step.observation, step.reward, step.state_hash, step.action_valid)
