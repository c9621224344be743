"""What a user can fix: `UserError`. The command prints its one line and exits with code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Wrong input or too small a cluster. The message is one line (a table may follow) and names the fix."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint such as ` Did you mean 'local'?`, or the empty string when nothing known is close to `word`.

    >>> did_you_mean("locl", ["local", "gpu"])
    " Did you mean 'local'?"
    """
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def last_line(error: BaseException) -> str:
    """What an error says in one line: of a traceback that is the last."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
