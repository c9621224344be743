"""Ctrl-C and SIGTERM while nothing is lost by them: one line at once, an end within seconds, exit code 130 or 143.

The training loop takes the signals over, to end its step and write a checkpoint (`cluster.commands.train`).
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
GRACE_S = 5.0
"""Seconds for an orderly end. What is under way then (an engine that loads, a worker that starts) ends with this
process: engines and the actors of its cluster follow it."""


class Interruption:
    """Handler of both signals.

    Attributes:
        code: exit code that the first signal asks for, 128 and its number; None before there was any.
    """

    def __init__(self) -> None:
        self.code: int | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Raises KeyboardInterrupt at the first signal; the second ends the process at once."""
        if self.code is not None:
            os._exit(self.code)
        self.code = 128 + number
        os.write(2, b"concerto: interrupted, ending what was started\n")  # print is not allowed to meet itself here
        deadline = threading.Timer(GRACE_S, os._exit, (self.code,))
        deadline.daemon = True
        deadline.start()
        raise KeyboardInterrupt


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Inside, a signal interrupts what is done."""
    interruption = Interruption()
    with handlers_kept():
        for number in SIGNALS:
            signal.signal(number, interruption)
        yield interruption


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Whatever handles the signals afterwards is what handled them before; asyncio and Ray put others in place."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
