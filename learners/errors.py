"""What is wrong with a run's input, in one line; imports nothing, so that a command can name these errors at once."""

from __future__ import annotations


class RewardError(ValueError):
    """A reward channel that cannot be used. The message names channel and episode."""
