"""The main loop: a thread that waits for keys, signals, deadlines and left-over output.

The main thread runs the guest and may be inside the engine for long; no signal handler written in Python runs
meanwhile. The C half of Python's handling writes the signal's number into a pipe, and this thread reads that.
"""

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Final

TICK_S: Final = 0.02
ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Signals:
    """Routes signals into a pipe. Built and closed on the main thread, which alone may do so.

    A signal that is ignored when this starts (nohup, background jobs) stays ignored.
    """

    def __init__(self, numbers: Iterable[signal.Signals]) -> None:
        self.fd, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._former = {}
        self._former_fd = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in numbers:
            former = signal.getsignal(number)
            if former is not signal.SIG_IGN:
                self._former[number] = former
                signal.signal(number, _noted)

    def take(self) -> list[int]:
        """The numbers that have come."""
        try:
            return list(os.read(self.fd, 64))
        except BlockingIOError:
            return []

    def close(self) -> None:
        """Put the former handlers back."""
        for number, former in self._former.items():
            signal.signal(number, former if former is not None else signal.SIG_DFL)
        signal.set_wakeup_fd(self._former_fd)
        os.close(self.fd)
        os.close(self._write)


def _noted(_number: int, _frame: FrameType | None) -> None:
    """The pipe has it."""


class MainLoop:
    """Waits on file descriptors in a thread of its own; every callback runs there.

    `tick` is called every `pace_s` after `wake`, until it returns False; `deadline_s` (host seconds from
    `start`) calls `on_deadline` once. What a callback raises is kept for `close` to raise.
    """

    def __init__(
        self,
        tick: Callable[[], bool],
        deadline_s: float | None = None,
        on_deadline: Callable[[], None] = lambda: None,
    ) -> None:
        self._tick = tick
        self._deadline_s = deadline_s
        self._on_deadline = on_deadline
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._wake_fd, select.POLLIN)
        self._readers: dict[int, Callable[[], None]] = {}
        self._closing = False
        self.pace_s = TICK_S
        self._error: Exception | None = None
        self.on_error: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._guarded, name="main-loop", daemon=True)

    def watch(self, fd: int, on_readable: Callable[[], None]) -> None:
        """Call when `fd` can be read, has ended or failed. Before `start`, or from a callback."""
        self._readers[fd] = on_readable
        self._poll.register(fd, select.POLLIN)

    def unwatch(self, fd: int) -> None:
        """Forget `fd`. From a callback."""
        if self._readers.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def wake(self) -> None:
        """Start ticking. Any thread."""
        os.eventfd_write(self._wake_fd, 1)

    def start(self) -> None:
        """Begin to wait."""
        self._thread.start()

    def close(self) -> None:
        """End the thread, if it was started. Raises what a callback raised."""
        self._closing = True
        self.wake()
        if self._thread.ident is not None:
            self._thread.join()
        os.close(self._wake_fd)
        if self._error is not None:
            raise self._error

    def _guarded(self) -> None:
        try:
            self._run()
        except Exception as error:  # told by close(); the guest must not run on without its console
            self._error = error
            self.on_error()

    def _run(self) -> None:
        ticking = False
        deadline = None if self._deadline_s is None else time.monotonic() + self._deadline_s
        next_tick = 0.0
        while not self._closing:
            now = time.monotonic()
            if deadline is not None and now >= deadline:
                deadline = None
                self._on_deadline()
            if ticking and now >= next_tick:
                ticking = self._tick()
                next_tick = now + self.pace_s
            waits = [when - now for when in (deadline, next_tick if ticking else None) if when is not None]
            timeout_ms = max(0, min(waits)) * 1000 if waits else None
            for fd, _events in self._poll.poll(timeout_ms):
                if fd == self._wake_fd:
                    os.eventfd_read(self._wake_fd)
                    ticking, next_tick = True, time.monotonic() + TICK_S
                elif fd in self._readers:
                    self._readers[fd]()
