"""Ctrl-C and SIGTERM while nothing is lost by them: one line at once, an end within seconds, exit code 130 or 143.

The training loop takes the signals over, to end its step and write a checkpoint (`cluster.commands.train`).
"""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from cluster.descendants import kill_descendants

SIGNALS = (signal.SIGINT, signal.SIGTERM)
GRACE_S = 4.0
"""Seconds for an orderly end. What is under way then (an engine that loads, a worker that starts) is killed."""

Handler = Callable[[int, FrameType | None], None]


class Interruption:
    """What a signal does: the main thread is interrupted as soon as it runs Python again. Another thread hears of it at
    once, says so, and ends the process at the second signal, or when its time is up.

    Attributes:
        code: exit code that the first signal asks for, 128 and its number; None before there was any.
    """

    def __init__(self) -> None:
        self.code: int | None = None
        self._silent = threading.Lock()

    def interrupt(self, number: int, frame: FrameType | None) -> NoReturn:
        """The handler, in the main thread."""
        self._hear(number)
        raise KeyboardInterrupt

    def listen(self, heard: int) -> None:
        """Read from a pipe the numbers of the signals that come, each a byte, until it is closed."""
        while number := os.read(heard, 1):
            if number[0] in SIGNALS:
                code = self._hear(number[0])
                select.select([heard], [], [], GRACE_S)
                kill_descendants()
                os._exit(code)
        os.close(heard)

    def _hear(self, number: int) -> int:
        if self._silent.acquire(blocking=False):  # whichever thread is first
            self.code = 128 + number
            os.write(2, b"concerto: interrupted, ending what was started\n")
        return self.code or 128 + number


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Inside, a signal interrupts what is done."""
    interruption = Interruption()
    heard, written = os.pipe()
    os.set_blocking(written, False)
    threading.Thread(target=interruption.listen, args=(heard,), daemon=True, name="interruption").start()
    with handled_by(interruption.interrupt, wakeup=written):
        yield interruption
    if interruption.code is None:  # else the thread goes on watching the time
        os.close(written)


@contextmanager
def handled_by(handler: Handler, wakeup: int = -1) -> Iterator[None]:
    """Inside, this handles both signals.

    Args:
        wakeup: descriptor that gets a signal's number at once, also while the main thread is busy in C; -1 for none.
    """
    with handlers_kept():
        signal.set_wakeup_fd(wakeup)
        for number in SIGNALS:
            signal.signal(number, handler)
        yield


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Whatever handles the signals afterwards is what handled them before; asyncio and Ray put others in place."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
