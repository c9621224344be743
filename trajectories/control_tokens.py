"""Control tokens against text from outside: what merely reads like one is encoded as ordinary text."""

from __future__ import annotations

import re
from itertools import groupby
from typing import TYPE_CHECKING

from trajectories.answers import TAGS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BREAK = "\ufdd0"
"""Where `encode` cuts a text in two. Unicode reserves this character for a program's own use: no text has it."""


class ControlTokens:
    """The tokens of a tokenizer that structure a conversation; immutable.

    These are its special tokens, and those added ones that the chat template writes (`<think>`, say). Other added
    tokens, such as runs of blanks, are ordinary text, and so is a token of a single character. That text and what a
    template writes beside it might make up a token together is left out: markers begin and end with brackets.

    Attributes:
        ids: their token ids.
        marks: those by which a model structures its answer, channels or reasoning; not the tags of answer formats.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        template, special = str(tokenizer.chat_template or ""), set(tokenizer.all_special_ids)
        found = {
            index: token
            for index, token in tokenizer.added_tokens_decoder.items()
            if len(token.content.strip()) > 1 and (token.special or index in special or token.content in template)
        }
        self.ids = frozenset(found)
        self.marks = frozenset(index for index, token in found.items() if token.content.lower() not in TAGS)
        strings = "|".join(re.escape(token.content) for token in found.values())
        # A step of one letter, so that of two strings that overlap both are found.
        self._written = re.compile(strings) if strings else None
        self._forged = re.compile(rf"(?=(?:{strings}))(.)", re.DOTALL) if strings else None
        # Such tokens are also found in what only looks like them once the tokenizer has folded case or width.
        self._folded = any(token.normalized for token in found.values())

    def quote(self, text: str) -> str:
        """The text with a break inside everything that reads like a control token; any other text as it is."""
        if self._forged is None:
            return text
        quoted = self._forged.sub(rf"\1{BREAK}", text)
        return BREAK.join(text) if self._folded and self.ids.intersection(self.encode(quoted)) else quoted

    def encode(self, text: str) -> list[int]:
        """Token ids; control tokens written in the text become themselves unless it is quoted, none are added.

        With the control token <|end|>, encode("a<|end|>") ends with its id; encode(quote("a<|end|>")) is the ids of
        "a<" and then those of "|end|>". Half a character (a lone surrogate), which no tokenizer takes, becomes "?".
        """
        pieces = (text if text.isascii() else text.encode(errors="replace").decode()).split(BREAK)
        return [token for piece in pieces for token in self._tokenizer(piece, add_special_tokens=False)["input_ids"]]  # pyright: ignore

    def spoken(self, token_ids: list[int]) -> str:
        """The text of sampled tokens: control tokens among them are written out, and only they, all else is quoted."""
        runs = groupby(token_ids, key=self.ids.__contains__)
        return "".join(
            self.decode(list(run)) if control else self.quote(self.decode(list(run))) for control, run in runs
        )

    def behind_last(self, text: str) -> str:
        """What a `spoken` text says behind the last control token in it."""
        written = list(self._written.finditer(text)) if self._written else []
        return text[written[-1].end() :] if written else text

    def decode(self, token_ids: list[int]) -> str:
        """The text, special tokens included."""
        text = self._tokenizer.decode(token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text
