"""A Hugging Face tokenizer seen through its chat template.

Text from outside (what an environment shows, an expert does) can never become a control token: it is quoted, see
`trajectories.control_tokens`.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Iterable, Mapping
from datetime import date
from typing import TYPE_CHECKING, Any, TypedDict

from trajectories.control_tokens import ControlTokens
from trajectories.errors import UserError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MARK = "MARK"
CLOCK = "strftime_now"
"""The function by which chat templates ask for the time."""
DATE = date(2026, 1, 1)
"""What they are told unless another day is set."""


class Message(TypedDict):
    """One message of a conversation; `role` is system, user or assistant."""

    role: str
    content: str


class ChatTokenizer:
    """Renders conversations with the model's own chat template and encodes them; immutable.

    Attributes:
        turn_end_id: the token with which the template ends an assistant's turn.
        stop_token_ids: every token at which generation stops: that one first, then the tokenizer's own end and those of
            the model's generation configuration.
    Raises:
        ValueError: no chat template, or one whose turns end with ordinary text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, end_ids: Iterable[int] = ()) -> None:
        """`end_ids`: the end tokens of the model's generation configuration."""
        self._tokenizer = tokenizer
        if not tokenizer.chat_template:
            raise ValueError(
                f"the tokenizer of {tokenizer.name_or_path or 'this model'} has no chat template; use an "
                "instruction-tuned model or save a chat_template.jinja beside it"
            )
        self._control = ControlTokens(tokenizer)
        self.turn_end_id = self._find_turn_end()
        own_end = [tokenizer.eos_token_id] if isinstance(tokenizer.eos_token_id, int) else []
        self.stop_token_ids = tuple(dict.fromkeys([self.turn_end_id, *own_end, *end_ids]))

    @classmethod
    def from_pretrained(cls, model: str) -> ChatTokenizer:
        """The tokenizer of a model directory or name."""
        from transformers import AutoTokenizer  # seconds to import; not needed by users of ready-made tokenizers

        return cls(AutoTokenizer.from_pretrained(model), _end_ids(model))

    def render(
        self, messages: list[Message], generation_prompt: bool = True, options: Mapping[str, Any] | None = None
    ) -> str:
        """The conversation as text for `encode`, by default up to where the assistant speaks.

        `options` go to the template, whose clock tells `DATE` unless they have another. What users say is quoted here.
        A system message is the run's own, and may hold control tokens; so may an assistant's, which is `spoken` or
        quoted already.
        """
        conversation = [{"role": message["role"], "content": self._quoted_user(message)} for message in messages]
        text = self._tokenizer.apply_chat_template(
            conversation,
            tokenize=False,
            add_generation_prompt=generation_prompt,
            **{CLOCK: DATE.strftime, **(options or {})},
        )
        assert isinstance(text, str)
        return text

    def encode(self, text: str) -> list[int]:
        """Token ids; control tokens written in the text become themselves unless it is quoted, none are added."""
        return self._control.encode(text)

    def quote(self, text: str) -> str:
        """Text from outside as `encode` takes it, so that nothing in it becomes a control token."""
        return self._control.quote(text)

    def encode_response(self, action: str) -> list[int]:
        """The action as the model would say it: its tokens, none of them a control token, and the turn's end."""
        return [*self.encode(self.quote(action)), self.turn_end_id]

    def decode(self, token_ids: list[int]) -> str:
        """The text, special tokens included."""
        return self._control.decode(token_ids)

    def spoken(self, token_ids: list[int]) -> str:
        """The text as `encode` takes it: control tokens among the ids are written out, and only they."""
        return self._control.spoken(token_ids)

    def action(self, token_ids: list[int]) -> str:
        """The text without special tokens and surrounding blanks: what the environment gets where no format is set."""
        text = self._tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text.strip()

    def check_options(self, options: Iterable[str]) -> None:
        """Raises UserError for the name of an option that the chat template does not read, or that is not free."""
        taken = {*inspect.signature(self._tokenizer.apply_chat_template).parameters, "messages"}
        for name in options:
            if name == CLOCK:
                raise UserError(f"rollout.prompt.chat_template_kwargs cannot set {name!r}: set rollout.prompt.date")
            if name in taken:
                raise UserError(f"rollout.prompt.chat_template_kwargs cannot set {name!r}: leave it out")
            if not re.search(rf"\b{re.escape(name)}\b", str(self._tokenizer.chat_template)):
                raise UserError(
                    f"the chat template of {self._tokenizer.name_or_path or 'this model'} does not read {name!r}: look "
                    "there for the right name, or leave it out of rollout.prompt.chat_template_kwargs"
                )

    def check_conversation(self, system: bool, options: Mapping[str, Any]) -> None:
        """Whether the template renders what an episode consists of. Raises UserError.

        Args:
            system: a system message comes first.
            options: what else the template gets.
        """
        turns: list[Message] = [
            {"role": "user", "content": "?"},
            {"role": "assistant", "content": "!"},
            {"role": "user", "content": "?"},
        ]
        name = self._tokenizer.name_or_path or "this model"
        try:
            self.render(turns, options=options)
        except Exception as error:  # a template is a program, and raises what it likes
            raise UserError(
                f"the chat template of {name} does not render a conversation of user and assistant "
                f"({first_line(error)}): save one that does beside the model"
            ) from None
        if system:
            self._check_system(turns, options, name)

    def _check_system(self, turns: list[Message], options: Mapping[str, Any], name: str) -> None:
        try:
            shown = _MARK in self.render([{"role": "system", "content": _MARK}, *turns], options=options)
            reason = "it leaves it out"
        except Exception as error:
            shown, reason = False, first_line(error)
        if not shown:
            raise UserError(
                f"the chat template of {name} takes no system message ({reason}): leave rollout.prompt.system empty"
            )

    @property
    def size(self) -> int:
        """One more than the highest token id."""
        return max(self._tokenizer.get_vocab().values()) + 1

    @property
    def fingerprint(self) -> str:
        """Equal for tokenizers that give the same tokens to the same conversation: SHA-256, in hex."""
        parts = (str(self._tokenizer.chat_template), json.dumps(sorted(self._tokenizer.get_vocab().items())))
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def _quoted_user(self, message: Message) -> str:
        return self.quote(message["content"]) if message["role"] == "user" else message["content"]

    def _find_turn_end(self) -> int:
        conversation: list[Message] = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _MARK}]
        ending = self.render(conversation, generation_prompt=False).rpartition(_MARK)[2]
        first = self.encode(ending)[:1]
        if not first or first[0] not in self._tokenizer.all_special_ids + list(self._tokenizer.added_tokens_decoder):
            raise ValueError(
                f"the chat template of {self._tokenizer.name_or_path or 'this model'} ends a turn with {ending!r}: "
                "no special token, so generation would not know where to stop"
            )
        return first[0]


def _end_ids(model: str) -> list[int]:
    """The end tokens that `generation_config.json` declares, one or several; none where there is no such file."""
    from transformers import GenerationConfig

    try:
        declared = GenerationConfig.from_pretrained(model).eos_token_id
    except OSError:
        return []
    return [declared] if isinstance(declared, int) else list(declared or [])
