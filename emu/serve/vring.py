"""One vring of a front-end: what was set for it, and the events that came with it."""

import os
from pathlib import Path
from typing import Final

from emu.bus.eventfd import EventFd
from emu.dataplanes.runner import QueueRunner
from emu.dataplanes.vhost_user.messages import ProtocolError, VringAddr

EVENTFD_LINK: Final = "anon_inode:[eventfd]"


class Vring:
    """Plain values until the session starts it. `runner` is there while it is served."""

    __slots__ = ("addr", "base", "call", "enabled", "error", "index", "kick", "num", "polled", "runner")

    def __init__(self, index: int) -> None:
        self.index = index
        self.num = self.base = 0
        self.addr: VringAddr | None = None
        self.kick: EventFd | None = None
        self.call: EventFd | None = None
        self.error: EventFd | None = None
        self.polled = False  # SET_VRING_KICK said so: there is no kick
        self.enabled = False
        self.runner: QueueRunner | None = None

    @property
    def startable(self) -> bool:
        """Everything that it takes has come, and it is enabled."""
        rung = self.kick is not None or self.polled
        return self.enabled and rung and self.addr is not None and self.num > 0

    def set_kick(self, event: EventFd | None) -> None:
        """What the front-end signals; None: look at the ring all the time."""
        self.forget_kick()
        self.kick, self.polled = event, event is None

    def forget_kick(self) -> None:
        """The ring is stopped until SET_VRING_KICK comes again."""
        if self.kick is not None:
            self.kick.close()
        self.kick, self.polled = None, False

    def set_call(self, event: EventFd | None) -> None:
        """What to signal when buffers were used; None: nothing."""
        if self.call is not None:
            self.call.close()
        self.call = event

    def set_error(self, event: EventFd | None) -> None:
        """What to signal when the driver broke the ring; None: nothing."""
        if self.error is not None:
            self.error.close()
        self.error = event

    def close(self) -> None:
        """Release the events."""
        self.forget_kick()
        self.set_call(None)
        self.set_error(None)


def adopt_event(fd: int, message: str) -> EventFd:
    """A peer's descriptor as an event that never blocks us. Raises ProtocolError, `fd` is closed then.

    The file's non-blocking flag is the peer's as well: it is set from now on for both.
    """
    try:
        if str(Path(f"/proc/self/fd/{fd}").readlink()) != EVENTFD_LINK:
            raise ProtocolError(message, "fd", "it is no eventfd")
        os.set_blocking(fd, False)
    except BaseException:
        os.close(fd)
        raise
    return EventFd.adopt(fd, message)


def silent() -> EventFd:
    """An event for which there is nobody: no descriptor."""
    event = EventFd.adopt(-1, "nobody")
    event.bind(lambda: None)
    return event
