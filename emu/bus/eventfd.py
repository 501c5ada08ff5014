"""The one wrapper of eventfd(2): a doorbell or an interrupt that may cross threads and processes."""

import os
from collections.abc import Callable
from typing import Self


class EventFd:
    """A counter that one side signals and the other waits on. Any thread may call any method.

    Inside one process a consumer may be bound instead, as an irqfd is in the kernel: `signal` then calls it
    in the signalling thread, and no system call is made.
    """

    __slots__ = ("fd", "name", "signal")

    def __init__(self, name: str = "event") -> None:
        self.name, self.fd = name, -1  # to close where there is no descriptor left
        self.fd = os.eventfd(0, os.EFD_CLOEXEC)
        self.signal: Callable[[], None] = self.write
        """Tell the other side: the bound consumer, else one added to the counter."""

    @classmethod
    def adopt(cls, fd: int, name: str = "event") -> Self:
        """Take over a descriptor that another process made; it is closed with this object."""
        event = cls.__new__(cls)
        event.name, event.fd, event.signal = name, fd, event.write
        return event

    def write(self) -> None:
        """Add one to the counter, whoever is bound: one system call that wakes a waiter."""
        os.eventfd_write(self.fd, 1)

    def wait(self) -> int:
        """Block until the counter is not zero, take it and return it: one system call, without the GIL."""
        return os.eventfd_read(self.fd)

    def bind(self, consumer: Callable[[], None]) -> None:
        """Let `signal` call `consumer` from now on."""
        self.signal = consumer

    def unbind(self) -> None:
        """Let `signal` write the counter again."""
        self.signal = self.write

    @property
    def bound(self) -> bool:
        """True where `signal` makes no system call."""
        return self.signal != self.write

    def fileno(self) -> int:
        """The descriptor, for selectors."""
        return self.fd

    def close(self) -> None:
        """Close the descriptor; nobody may wait or signal any more. Harmless when repeated."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __del__(self) -> None:
        self.close()
