"""A Hugging Face tokenizer seen through its chat template.

Text from outside (what an environment shows, an expert does) can never become a control token: it is quoted, see
`trajectories.control_tokens`.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Collection, Iterable, Mapping
from datetime import date
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from trajectories.control_tokens import ControlTokens
from trajectories.errors import UserError, first_line
from trajectories.files import reading

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MARK = "concerto-mark"
"""Words to find again in what a template makes of them."""
_FIRST = "THE FIRST"
_SYSTEM = f"{_MARK} <think>{_MARK}</think><action>{_MARK}</action>"
"""A system message as those of the answer formats are: it names their tags."""
CLOCK = "strftime_now"
"""The function by which chat templates ask for the time."""
DATE = date(2026, 1, 1)
"""What they are told unless another day is set."""


class Message(TypedDict):
    """One message of a conversation; `role` is system, user or assistant."""

    role: str
    content: str


def pretrained_tokenizer(model: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a directory or hub name. Code that a model brings is never run.

    It is that of tokenizer.json also where Mistral's tekken.json lies beside it: that one has no chat template.
    """
    from transformers import AutoTokenizer  # seconds to import; not needed by users of ready-made tokenizers

    return AutoTokenizer.from_pretrained(model, mistral_format=False, trust_remote_code=False)


class ChatTokenizer:
    """Renders conversations with the model's own chat template and encodes them; immutable.

    Attributes:
        turn_end_id: the token with which the template ends an assistant's turn.
        stop_token_ids: every token at which generation stops: that one first, then the tokenizer's own end and those of
            the model's generation configuration.
        takes_system: the template shows a system message as it stands, before anything else. Where it does not,
            `render` puts the message above what the user says first.
    Raises:
        ValueError: no chat template, or one that leaves out the assistant or whose turns end with ordinary text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, end_ids: Iterable[int] = ()) -> None:
        """`end_ids`: the end tokens of the model's generation configuration."""
        self._tokenizer = tokenizer
        if not tokenizer.chat_template:
            raise ValueError(
                f"the tokenizer of {self._name} has no chat template; use an instruction-tuned model or save a "
                "chat_template.jinja beside it"
            )
        self._control = ControlTokens(tokenizer)
        self.takes_system = self._shows_system()
        own_end = [tokenizer.eos_token_id] if isinstance(tokenizer.eos_token_id, int) else []
        declared = [*own_end, *end_ids]
        self.turn_end_id = self._find_turn_end(declared)
        self.stop_token_ids = tuple(dict.fromkeys([self.turn_end_id, *declared]))

    @classmethod
    def from_pretrained(cls, model: str) -> ChatTokenizer:
        """The tokenizer of a model directory or name. Raises UserError for a damaged `generation_config.json`, and
        whatever Transformers raises."""
        tokenizer = pretrained_tokenizer(model)
        return cls(tokenizer, _end_ids(model, max(tokenizer.get_vocab().values())))

    def render(
        self, messages: list[Message], generation_prompt: bool = True, options: Mapping[str, Any] | None = None
    ) -> str:
        """The conversation as text for `encode`, by default up to where the assistant speaks.

        `options` go to the template, whose clock tells `DATE` unless they have another. What users say is quoted here.
        A system message is the run's own, and may hold control tokens, also where it stands above what the user says
        first (`takes_system`); so may an assistant's, which is `spoken` or quoted already. Where the template refuses
        those (GPT-OSS's wants no channels in what was said), it is shown what was said behind the last of them.
        """
        quoted: list[Message] = [{"role": each["role"], "content": self._quoted_user(each)} for each in messages]
        shown = quoted if self.takes_system else _without_system(quoted)
        try:
            return self._apply(shown, generation_prompt, options)
        except Exception:  # a template is a program, and raises what it likes
            plain = [self._plain(message) for message in shown]
            if plain == shown:
                raise
            return self._apply(plain, generation_prompt, options)

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

    def answer(self, token_ids: list[int]) -> str:
        """The last text that says something between control tokens which are no tags of an answer format: before it
        stand reasoning and channels, as GPT-OSS, Magistral, Gemma 4 and Cohere's models mark them, and behind it what
        closes an answer (Apriel)."""
        runs = groupby(token_ids, key=self._control.marks.__contains__)
        texts = [self.decode(list(run)) for marked, run in runs if not marked]
        return next((text for text in reversed(texts) if text.strip()), "")

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
                    f"the chat template of {self._name} does not read {name!r}: look there for the right name, or "
                    "leave it out of rollout.prompt.chat_template_kwargs"
                )

    def check_conversation(self, system: str, options: Mapping[str, Any]) -> list[int]:
        """The token ids of a conversation as an episode holds it: user, assistant and user, below a system message.

        Args:
            system: the message; empty: none.
            options: what else the template gets.
        Raises:
            UserError: the template does not render it, leaves somebody out, or changes the system message.
        """
        roles = ("user", "assistant", "user")
        turns: list[Message] = [{"role": role, "content": f"{_MARK} {turn}"} for turn, role in enumerate(roles)]
        if system:
            turns.insert(0, {"role": "system", "content": system.strip()})
        try:
            rendered = self.render(turns, options=options)
        except Exception as error:  # a template is a program, and raises what it likes
            raise UserError(
                f"the chat template of {self._name} does not render a conversation of user and assistant "
                f"({first_line(error)}): save one that does beside the model"
            ) from None
        for turn in turns:
            if turn["content"] not in rendered:
                raise UserError(
                    f"the chat template of {self._name} does not show the {turn['role']} message as it stands: save "
                    "one that does beside the model"
                    + (", or write another system message (rollout.prompt)" if turn["role"] == "system" else "")
                )
        return self.encode(rendered)

    @property
    def size(self) -> int:
        """One more than the highest id of ordinary text and of the ends: other control tokens get into a prompt only
        where the template or the run itself writes them."""
        ordinary = set(self._tokenizer.get_vocab().values()) - self._control.ids
        return max(ordinary.union(self.stop_token_ids)) + 1

    @property
    def fingerprint(self) -> str:
        """Equal for tokenizers that give the same tokens to the same conversation: SHA-256, in hex."""
        parts = (str(self._tokenizer.chat_template), json.dumps(sorted(self._tokenizer.get_vocab().items())))
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    @property
    def _name(self) -> str:
        return self._tokenizer.name_or_path or "this model"

    def _quoted_user(self, message: Message) -> str:
        return self.quote(message["content"]) if message["role"] == "user" else message["content"]

    def _plain(self, message: Message) -> Message:
        if message["role"] != "assistant":
            return message
        return {"role": message["role"], "content": self._control.behind_last(message["content"])}

    def _apply(
        self, messages: list[Message], generation_prompt: bool = True, options: Mapping[str, Any] | None = None
    ) -> str:
        text = self._tokenizer.apply_chat_template(
            [{"role": message["role"], "content": message["content"]} for message in messages],
            tokenize=False,
            add_generation_prompt=generation_prompt,
            **{CLOCK: DATE.strftime, **(options or {})},
        )
        assert isinstance(text, str)
        return text

    def _shows_system(self) -> bool:
        """Gemma-2's template refuses the role, others leave it out, and SmolLM3's takes `/think` out of `</think>`.
        Mistral's moves it to whatever the user says last, so that every turn would be another conversation."""
        turns: list[Message] = [
            {"role": "system", "content": _SYSTEM},
            {"role": "user", "content": _FIRST},
            {"role": "assistant", "content": "!"},
            {"role": "user", "content": "?"},
        ]
        try:
            text = self._apply(turns)
        except Exception:  # a template is a program, and raises what it likes
            return False
        return 0 <= text.find(_SYSTEM) < text.find(_FIRST)

    def _find_turn_end(self, declared: Collection[int]) -> int:
        """The first token behind an answer. Where nothing is, as with GLM-4, the next turn's role ends this one."""
        ends: Collection[int] = [*self._tokenizer.all_special_ids, *self._tokenizer.added_tokens_decoder]
        if not (behind := self._behind_answer([])):
            behind, ends = self._behind_answer([{"role": "user", "content": "?"}]), declared
        first = self.encode(behind)[:1]
        if not first or first[0] not in ends:
            raise ValueError(
                f"the chat template of {self._name} ends a turn with {behind[:20]!r}: no special token, nor one that "
                "generation_config.json names, so generation would not know where to stop"
            )
        return first[0]

    def _behind_answer(self, later: list[Message]) -> str:
        """What the template writes behind an assistant's message and before the words of `later`, without blanks."""
        turns: list[Message] = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _MARK}, *later]
        _, found, behind = self._apply(turns, generation_prompt=False).rpartition(_MARK)
        if not found:
            raise ValueError(f"the chat template of {self._name} does not show the assistant message as it stands")
        return behind.strip()


def _without_system(messages: list[Message]) -> list[Message]:
    """The same with a system message above what the user says first, as Gemma-3's template does it."""
    if not messages or messages[0]["role"] != "system":
        return messages
    system, *others = messages
    if others and others[0]["role"] == "user":
        first = others.pop(0)["content"]
        return [{"role": "user", "content": f"{system['content']}\n\n{first}"}, *others]
    return [{"role": "user", "content": system["content"]}, *others]


def _end_ids(model: str, highest: int) -> list[int]:
    """The end tokens that `generation_config.json` declares, one or several; none where there is no such file.

    Raises UserError where the file is damaged, or names an id above the tokenizer's highest.
    """
    from transformers.utils.hub import cached_file

    try:
        found = cached_file(model, "generation_config.json")
    except OSError:
        return []
    assert isinstance(found, str)
    file, fix = Path(found), 'write {"eos_token_id": ID} there, with the id of the model\'s end token'
    with reading(file, f"{fix}."):
        settings = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(settings, dict):
            raise ValueError("it holds no settings")
    declared = settings.get("eos_token_id")
    ends = declared if isinstance(declared, list) else [] if declared is None else [declared]
    for end in ends:
        if type(end) is not int or not 0 <= end <= highest:
            raise UserError(f"{file} names {end!r} as an end, which is no token id from 0 to {highest}: {fix}")
    return ends
