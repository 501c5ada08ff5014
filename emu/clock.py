"""Host time and guest time, and the timers that wait on either.

A clock belongs to the vCPU thread: chips read it and arm timers there, and the run loop calls
`run_due` when a deadline has passed.
"""

import heapq
import time
from collections.abc import Callable
from itertools import count
from typing import Protocol


class Timer(Protocol):
    """A pending call."""

    def cancel(self) -> None:
        """Forget the call; harmless when it has already been made."""


class Clock(Protocol):
    """What a chip may know of time."""

    def now_ns(self) -> int:
        """Nanoseconds since the machine was switched on; never goes back."""

    def call_at(self, deadline_ns: int, call: Callable[[], None]) -> Timer:
        """Make `call` on the vCPU thread once `now_ns()` has reached `deadline_ns`."""


class _Entry:
    """One armed timer; `call` is None once cancelled or made."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        self.call = None


class TimerQueue:
    """Timers in the order of their deadlines; equal deadlines in the order of arming."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, _Entry]] = []
        self._order = count()

    def add(self, deadline_ns: int, call: Callable[[], None]) -> _Entry:
        """Arm one timer."""
        entry = _Entry(call)
        heapq.heappush(self._heap, (deadline_ns, next(self._order), entry))
        return entry

    def next_deadline(self) -> int | None:
        """The earliest deadline that is still armed, in ns, or None."""
        heap = self._heap
        while heap and heap[0][2].call is None:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def run_due(self, now_ns: int) -> None:
        """Make every call whose deadline is not after `now_ns`."""
        heap = self._heap
        while heap and heap[0][0] <= now_ns:
            entry = heapq.heappop(heap)[2]
            call, entry.call = entry.call, None
            if call is not None:
                call()


class TimedCalls:
    """The half of a clock that arms timers.

    `on_earlier(deadline_ns)` is called when a timer becomes the earliest one, so that the run loop can
    move its alarm.
    """

    def __init__(self) -> None:
        self.timers = TimerQueue()
        self.on_earlier: Callable[[int], None] = _ignore

    def call_at(self, deadline_ns: int, call: Callable[[], None]) -> Timer:
        """Arm a timer; see `Clock`."""
        earliest = self.timers.next_deadline()
        entry = self.timers.add(deadline_ns, call)
        if earliest is None or deadline_ns < earliest:
            self.on_earlier(deadline_ns)
        return entry


class HostClock(TimedCalls):
    """Time of the host's monotonic clock, zero at construction."""

    def __init__(self) -> None:
        super().__init__()
        self.epoch_ns = time.monotonic_ns()

    def now_ns(self) -> int:
        """Nanoseconds since construction."""
        return time.monotonic_ns() - self.epoch_ns


class GuestClock(TimedCalls):
    """Time that moves only when `advance` is told so: with executed instructions, or by a test's hand."""

    def __init__(self) -> None:
        super().__init__()
        self._now_ns = 0

    def now_ns(self) -> int:
        """Nanoseconds advanced so far."""
        return self._now_ns

    def advance(self, ns: int) -> None:
        """Move time on by `ns`, stopping at each deadline on the way to make its calls."""
        end = self._now_ns + ns
        while (deadline := self.timers.next_deadline()) is not None and deadline <= end:
            self._now_ns = max(self._now_ns, deadline)
            self.timers.run_due(self._now_ns)
        self._now_ns = end


def _ignore(_deadline_ns: int) -> None:
    """No run loop listens."""
