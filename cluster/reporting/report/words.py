"""Token ids as text for a page, one piece a token."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from cluster.inputs.models import TINY
from cluster.reporting.report.runs import Run


class Words:
    """The texts of a run's tokens; without a tokenizer each token is its number.

    Attributes:
        missing: nothing could be found that tells what the numbers say.
    """

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self._tokenizer = tokenizer
        self.missing = tokenizer is None
        added = tokenizer.get_added_tokens_decoder() if tokenizer else {}
        self._control = {number: token.content for number, token in added.items() if token.special}

    @classmethod
    def of_run(cls, run: Run) -> Words:
        """By the tokenizer of the trained model, or, while there is none, of the model that the run began with."""
        for folder in (run.folder / "model", _first_model(run)):
            try:
                return cls(Tokenizer.from_file(str(folder / "tokenizer.json")))
            except Exception:  # the library has no class of its own for a file that is missing or no tokenizer
                continue
        return cls(None)

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """The text that each token adds. Of tokens that make one letter together, the last has it."""
        if self._tokenizer is None:
            return [f"{number} " for number in ids]
        stream = DecodeStream(skip_special_tokens=False)
        return [stream.step(self._tokenizer, number) or "" for number in ids]

    def pieces(self, ids: Sequence[int]) -> list[tuple[str, bool]]:
        """Text and control tokens in turn: (text, False) or (the token's name, True)."""
        pieces: list[tuple[str, bool]] = []
        for control, run in groupby(ids, key=self._control.__contains__):
            if control:
                pieces += [(self._control[number], True) for number in run]
            else:
                pieces.append((self.texts([list(run)])[0], False))
        return pieces

    def texts(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Whole sequences as text, control tokens included."""
        if self._tokenizer is None:
            return [" ".join(map(str, ids)) for ids in rows]
        return self._tokenizer.decode_batch([list(ids) for ids in rows], skip_special_tokens=False)


def _first_model(run: Run) -> Path:
    policy = run.config.get("policy")
    name = str(policy.get("model", "")) if isinstance(policy, dict) else ""
    if name == TINY:
        from learners.tiny import embedded_model_path

        return Path(embedded_model_path())
    return Path(name).expanduser()
