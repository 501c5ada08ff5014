"""A deadline that the engine looks at, where no signal handler of ours runs."""

import os
import select
import time


class PublicSignals:
    """The flags between threads; plain stores."""

    def __init__(self) -> None:
        self.alarm = 0
        self.waiting = 0
        self.poked = 0
        """1: another thread wants an INTA cycle."""


class PolledDeadline:
    """A deadline that the engine looks at between slices; owned by the vCPU thread."""

    writes_event = False

    def __init__(self, signals: PublicSignals, wake_fd: int) -> None:
        self._signals, self._wake_fd = signals, wake_fd
        self._at: int | None = None
        self._insists = False
        self._poll = select.poll()
        self._poll.register(wake_fd, select.POLLIN)

    def arm(self, deadline_ns: int) -> None:
        """Due once the host's monotonic clock reaches `deadline_ns`."""
        self._at = deadline_ns

    def disarm(self) -> None:
        """No deadline."""
        self._at = None

    def insist(self) -> None:
        """Due at the next look, whatever is armed before it; any thread."""
        self._insists = True

    def now(self) -> int:
        """Have an INTA cycle run soon; any thread. No system call."""
        self._signals.poked = 1
        return 0

    def look(self) -> None:
        """Set the flag where the deadline has passed, or another thread insists.

        Who sees the flag makes the calls that were posted before `insist`.
        """
        if self._insists or (self._at is not None and time.monotonic_ns() >= self._at):
            self._insists = False
            self._signals.alarm = 1

    def wait(self) -> None:
        """Sleep until the eventfd is written or the deadline passes."""
        left = None if self._at is None else max(0, self._at - time.monotonic_ns()) / 1e6
        if self._poll.poll(left):
            os.eventfd_read(self._wake_fd)
        self.look()

    def close(self) -> None:
        """Nothing to free."""
        self._at = None
