"""Ctrl-C, SIGTERM and a terminal that closes (SIGHUP), while nothing is lost by them: one line at once, an end within
seconds, exit code 130, 143 or 129.

The training loop takes the signals over, to end its step and write a checkpoint (`cluster.commands.train`).
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from cluster.descendants import kill_descendants

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
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
            _mind_terminal(number)
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
    """Inside, this handles the signals that end a command.

    Args:
        wakeup: descriptor that gets a signal's number at once, also while the main thread is busy in C; -1 for none.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        _mind_terminal(number)
        handler(number, frame)

    with handlers_kept():
        signal.set_wakeup_fd(wakeup)
        for number in _heard():
            signal.signal(number, handle)
        yield


@contextmanager
def handled_in_loop(handler: Callable[[], object]) -> Iterator[None]:
    """Inside, the running event loop calls this for the signals that end a command."""
    loop, signals = asyncio.get_running_loop(), _heard()

    def handle(number: int) -> None:
        _mind_terminal(number)
        handler()

    with handlers_kept():
        for number in signals:
            loop.add_signal_handler(number, handle, number)
        try:
            yield
        finally:
            for number in signals:
                loop.remove_signal_handler(number)


def _heard() -> tuple[signal.Signals, ...]:
    """The signals that end a command: all, but not SIGHUP where it is ignored, as under `nohup`."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return tuple(number for number in SIGNALS if not (ignored and number is signal.SIGHUP))


def _mind_terminal(number: int) -> None:
    """After SIGHUP whatever is said to the terminal goes nowhere: it is gone, and to write there would be an error."""
    if number != signal.SIGHUP:
        return
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        with suppress(OSError):  # closed
            if stat.S_ISCHR(os.fstat(stream).st_mode):
                os.dup2(nowhere, stream)


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
