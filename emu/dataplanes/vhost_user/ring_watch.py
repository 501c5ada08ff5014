"""A timer that kicks and interrupts once more where the guest's missing barriers may have lost either.

The CPU engine drops the guest's memory barriers. A back-end of ours does the guest's half (`membarrier`); a
foreign one does not: the guest's new available index and the back-end's wish for a kick may pass each other,
and so may the used index and the guest's wish for an interrupt. Such a loss leaves the ring as it is, so a
ring that stands still between two looks gets one kick and one interrupt more for what it holds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from emu.bus.eventfd import EventFd
from emu.bus.memory import GuestMemory
from emu.clock import Clock, Timer
from emu.dataplanes.vrings import Vring

SOON_NS: Final = 4_000_000
LATE_NS: Final = 64_000_000
PATIENCE: Final = 32
"""Looks at rings that stand still before the looks get rarer: an idle guest is hardly woken."""


@dataclass(slots=True)
class Watched:
    """One ring: where its two indices are, and what they were at the last look."""

    avail: memoryview
    used: memoryview
    kick: EventFd
    call: EventFd
    seen: tuple[int, int]
    settled: tuple[int, int]
    """What was kicked and interrupted for already."""


class RingWatch:
    """Looks at the rings of one device while it runs. The vCPU thread's own. `kicks` counts its kicks.

    `tell` passes a ring's call event on to the guest.
    """

    def __init__(self, clock: Clock, tell: Callable[[EventFd], None]) -> None:
        self._clock, self._tell = clock, tell
        self._rings: list[Watched] = []
        self._timer: Timer | None = None
        self._still = 0
        self.kicks = 0

    def add(self, memory: GuestMemory, vring: Vring) -> None:
        """Watch one more ring; before `start`. Raises GuestAddressError."""
        assert vring.kick is not None
        assert vring.call is not None
        avail = memory.view(vring.avail, 4).cast("H")
        used = memory.view(vring.used, 4).cast("H")
        now = (avail[1], used[1])
        self._rings.append(Watched(avail, used, vring.kick, vring.call, now, now))

    def start(self) -> None:
        """Begin to look."""
        self._still = 0
        self._arm()

    def stop(self) -> None:
        """Look no more, and forget the rings."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._rings.clear()

    def _arm(self) -> None:
        pause = SOON_NS if self._still < PATIENCE else LATE_NS
        self._timer = self._clock.call_at(self._clock.now_ns() + pause, self._look)

    def _look(self) -> None:
        self._still += 1
        for ring in self._rings:
            now = (ring.avail[1], ring.used[1])
            if now != ring.seen:
                ring.seen = now
                self._still = 0
            elif now != ring.settled:
                self._settle(ring, now)
        self._arm()

    def _settle(self, ring: Watched, now: tuple[int, int]) -> None:
        if now[0] != now[1]:
            self.kicks += 1
            ring.kick.write()
        if now[1] != ring.settled[1]:
            self._tell(ring.call)
        ring.settled = now
