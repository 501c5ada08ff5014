"""Descriptors that bring a device frames: heard by the listener, or looked at where the guest comes by.

An event wakes the listener's thread, which takes the GIL from the vCPU's, posts a call and signals it: 80 us
of the 400 that each frame of a TCP stream takes. A guest that sends comes by often enough, so its doorbells
look (`rung`), and the descriptor is held back: the listener does not hear of it.
"""

from collections.abc import Callable
from typing import Final

from emu.clock import Clock
from emu.kernel.call_events import CallEvents

OFTEN_NS: Final = 1_000_000
"""Two doorbells within that time and no halt between them: the descriptor is held back. It is no more at a
halt, or when none came for that time; so nothing waits longer than twice that."""


class _Source:
    """One descriptor."""

    __slots__ = ("ended", "halts", "looked", "rung_ns", "ticking")

    def __init__(self, ended: Callable[[], None]) -> None:
        self.ended = ended
        self.halts, self.rung_ns = -1, 0
        self.looked = self.ticking = False


class Sources:
    """Owned by the vCPU thread, on which `clock` makes its calls."""

    def __init__(self, events: CallEvents, clock: Clock) -> None:
        self._events, self._clock = events, clock
        self._sources: dict[int, _Source] = {}

    def watch(self, fd: int, call: Callable[[], None], ended: Callable[[], None]) -> None:
        """See `emu.dataplanes.types.Sources`."""
        self._sources[fd] = _Source(ended)
        self._events.watch(fd, call)

    def unwatch(self, fd: int) -> None:
        """Call no more; returns when no call for it is running. Harmless when not watched."""
        if self._sources.pop(fd, None) is not None:
            self._events.unwatch(fd)

    def rung(self, fd: int) -> bool:
        """The guest rings its device: True where the caller is to look at `fd`, which is held back."""
        source, events = self._sources[fd], self._events
        if events.holds(fd):
            source.looked = True
            return True
        now, halts = self._clock.now_ns(), events.halts
        often = 0 < halts == source.halts and now - source.rung_ns < OFTEN_NS  # 0: no halt is heard here
        source.halts, source.rung_ns = halts, now
        if often:
            events.hold(fd, source.ended)
            source.looked = True
            if not source.ticking:
                source.ticking = True
                self._clock.call_at(now + OFTEN_NS, lambda: self._tick(fd, source))
        return often

    def _tick(self, fd: int, source: _Source) -> None:
        events = self._events
        source.ticking = False
        if self._sources.get(fd) is not source or not events.holds(fd):
            return
        if source.looked:
            source.looked, source.ticking = False, True
            self._clock.call_at(self._clock.now_ns() + OFTEN_NS, lambda: self._tick(fd, source))
        else:
            events.release(fd)
