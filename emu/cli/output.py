"""COM1's output on its way out: batched by lines, so that a byte costs no system call."""

import os
import select
import threading
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

BATCH: Final = 4096  # PIPE_BUF: a pipe that polls writable takes this much without blocking


class Sink(Protocol):
    """Where batches go."""

    def write(self, data: bytes, /) -> None:
        """Take all of `data`; may block."""

    def ready(self) -> bool:
        """True where `write` of one batch would not block."""


class DeviceSink(Sink, Protocol):
    """A sink that one need not wait for."""

    def offer(self, data: bytes | memoryview, /) -> int:
        """Take what can be taken at once, at most a batch; return how much that is."""


class SerialOutput:
    """Collects the guest's bytes and hands them to a sink: whole lines at once, a rest when it is due.

    `write` is called on the vCPU thread, `tick` on the main loop's. `wake` is called when a rest is left
    behind while nobody ticks.
    """

    def __init__(self, sink: Sink, wake: Callable[[], None]) -> None:
        self._sink = sink
        self._wake = wake
        self._pending = bytearray()
        self._asides: deque[bytes] = deque()
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

    def insert(self, data: bytes) -> None:
        """Put something between that is not the guest's, at the next tick; the main loop's thread."""
        self._asides.append(data)
        self._wake()

    def tick(self) -> bool:
        """Hand over what has waited, unless that would block. False when nothing came since the last tick."""
        if not self._order.acquire(blocking=False):
            return True
        try:
            while self._asides:
                self._pending += self._asides.popleft()
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

    def offer(self, data: bytes | memoryview) -> int:
        """Forget it."""
        return len(data)

    def ready(self) -> bool:
        """Always."""
        return True


class FileSink:
    """Writes to `fd`; -1 is nobody, who forgets everything. Another `fd` may come with `set_fd`.

    Once nobody can read `fd` any more, or it takes no more, `failure` says why, `on_broken` is called once,
    and the rest is forgotten. With `lossy` it is a terminal that forgets while it is hung up. `name` is for
    errors.
    """

    def __init__(self, fd: int, name: str = "", *, lossy: bool = False) -> None:
        self._fd, self.name, self._lossy = fd, name, lossy
        self.failure: OSError | None = None
        self.on_broken: Callable[[], None] = lambda: None
        self._cancel = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._busy = threading.Lock()  # held while `fd` is written to: it must not be closed meanwhile

    def set_fd(self, fd: int) -> None:
        """Write to `fd` from now on. Returns once nobody writes to the former one. Any thread."""
        with self._busy:
            self._fd = fd

    def write(self, data: bytes) -> None:
        """Write all of it, waiting for a slow reader until `cancel`."""
        rest = memoryview(data)
        with self._busy:
            while rest and (taken := self._put(rest, None)) is not None:
                rest = rest[taken:]

    def offer(self, data: bytes | memoryview) -> int:
        """Write what is taken at once."""
        with self._busy:
            return self._put(memoryview(data), 0) or 0

    def ready(self) -> bool:
        """True where a batch can be written at once."""
        if self._fd < 0:
            return True
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        return bool(poll.poll(0))

    def cancel(self) -> None:
        """Wait for no reader any more; a later write takes what fits at once. Any thread."""
        os.eventfd_write(self._cancel, 1)

    def close(self) -> None:
        """Release what was opened here; `fd` stays."""
        self._fd = -1
        os.close(self._cancel)

    def _put(self, data: memoryview, patience_ms: int | None) -> int | None:
        """Write a part; return its length. None where nobody takes any, and one cannot or will not wait."""
        if self._fd < 0:
            return len(data)
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        poll.register(self._cancel, select.POLLIN)
        events = dict(poll.poll(patience_ms)).get(self._fd)
        if events is None:
            return None
        if self._lossy and events & select.POLLHUP:
            return len(data)
        try:
            return os.write(self._fd, data[:BATCH])
        except BlockingIOError:
            return 0
        except OSError as error:
            self._fd, self.failure = -1, error
            self.on_broken()
            return len(data)
