"""COM1's output on its way out: batched by lines, so that a byte costs no system call."""

import os
import select
import threading
from collections.abc import Callable
from typing import Final, Protocol

BATCH: Final = 4096  # PIPE_BUF: a pipe that polls writable takes this much without blocking


class Sink(Protocol):
    """Where batches go."""

    def write(self, data: bytes, /) -> None:
        """Take all of `data`; may block."""

    def ready(self) -> bool:
        """True where `write` of one batch would not block."""


class SerialOutput:
    """Collects the guest's bytes and hands them to a sink: whole lines at once, a rest when it is due.

    `write` is called on the vCPU thread, `tick` on the main loop's. `wake` is called when a rest is left
    behind while nobody ticks.
    """

    def __init__(self, sink: Sink, wake: Callable[[], None]) -> None:
        self._sink = sink
        self._wake = wake
        self._pending = bytearray()
        self._order = threading.Lock()  # held while a batch is delivered: the sink sees them in order
        self._ticking = False
        self._written = False

    def write(self, data: bytes) -> None:
        """Take what the guest sent."""
        wake = False
        with self._order:
            self._pending += data
            self._written = True
            if data[-1:] == b"\n" or len(self._pending) >= BATCH:
                self._deliver()
            elif not self._ticking:
                self._ticking = wake = True
        if wake:
            self._wake()

    def tick(self) -> bool:
        """Hand over what has waited, unless that would block. False when nothing came since the last tick."""
        if not self._order.acquire(blocking=False):
            return True
        try:
            if self._pending:
                if self._sink.ready():
                    self._deliver()
                return True
            self._ticking, self._written = self._written, False
            return self._ticking
        finally:
            self._order.release()

    def flush(self) -> None:
        """Hand over everything."""
        with self._order:
            if self._pending:
                self._deliver()

    def _deliver(self) -> None:
        data = bytes(self._pending)
        self._pending.clear()
        self._sink.write(data)


class Discard:
    """The sink of `null` and `none`."""

    def write(self, data: bytes) -> None:
        """Forget it."""

    def ready(self) -> bool:
        """Always."""
        return True


class FileSink:
    """Writes to `fd`. Once nobody can read that any more, calls `on_broken` once and forgets the rest."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.on_broken: Callable[[], None] = lambda: None
        self._cancel = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._open = True

    def write(self, data: bytes) -> None:
        """Write all of it, waiting for a slow reader until `cancel`."""
        rest = memoryview(data)
        while rest and self._open:
            try:
                if not self._wait():
                    return
                rest = rest[os.write(self._fd, rest[:BATCH]) :]
            except BlockingIOError:
                continue
            except OSError:
                self._open = False
                self.on_broken()

    def ready(self) -> bool:
        """True where a batch can be written at once."""
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        return bool(poll.poll(0))

    def cancel(self) -> None:
        """Wait for no reader any more; a later write takes what fits at once. Any thread."""
        os.eventfd_write(self._cancel, 1)

    def close(self) -> None:
        """Release what was opened here; `fd` stays."""
        self._open = False
        os.close(self._cancel)

    def _wait(self) -> bool:
        """Until `fd` takes a batch; False where it does not and nobody wants to wait."""
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        poll.register(self._cancel, select.POLLIN)
        return any(fd == self._fd for fd, _ in poll.poll())
