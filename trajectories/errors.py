"""The ends of a command that are no bug: every class carries its exit code, and the command prints its one line.

They stand on the lowest floor, so that every package may raise them; `envs` imports nothing else of its neighbour but
this and settings. A class of its own is for what somebody catches by its type.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


class ConcertoError(Exception):
    """An end with a reason that its reader can act on. The message is one line (a table may follow).

    Attributes:
        exit_code: what `concerto` exits with: 1 for a run that failed, 2 for wrong input, 130 for an interruption.
        fix: what to do about every error of the class, printed behind the message; empty where the message says it.
    """

    exit_code: ClassVar[int] = 1
    fix: ClassVar[str] = ""


class UserError(ConcertoError):
    """Wrong input, missing or damaged data, or too small a cluster. The message names the fix."""

    exit_code = 2


class RunError(ConcertoError):
    """The run cannot go on: a bounded wait ended, a budget is spent, a check failed. The message says which."""


class StorageError(RunError):
    """A file or folder could not be written: the disk is full, read-only or gone. The message names it."""

    fix = "free some room or mend the disk, and give the command again"


class WorkersLost(RunError):
    """Learner workers or the Conductor died, or did not answer in time, and with them what they had learned since the
    last checkpoint; or a node died with the only copy of an untrained group. The message holds their own words."""

    fix = "go on from the last checkpoint with --resume"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint such as ` Did you mean 'local'?`, or the empty string when nothing known is close to `word`.

    >>> did_you_mean("locl", ["local", "gpu"])
    " Did you mean 'local'?"
    """
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def first_line(error: BaseException) -> str:
    """What a library's error says, for a sentence of ours: its first line without a full stop, or else its type. A line
    that only announces the next is told with it.

    >>> first_line(OSError("no such file.\\nLook elsewhere.")), first_line(OSError("In the file:\\n  a typo.\\nBye."))
    ('no such file', 'In the file: a typo')
    """
    first, *others = _lines(error)
    return (f"{first} {others[0].strip()}" if first.endswith(":") and others else first).rstrip(".")


def last_line(error: BaseException) -> str:
    """What an error says that came with a traceback, as Ray's do: its last line, or else its type."""
    return _lines(error)[-1]


def _lines(error: BaseException) -> list[str]:
    return str(error).strip().splitlines() or [type(error).__name__]
