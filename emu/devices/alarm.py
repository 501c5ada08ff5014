"""One deadline of a chip, which the guest may move as often as it likes.

A clock keeps a cancelled timer until its time has come. A guest that reprograms a chip in a loop would fill
the clock with them; so a later deadline, or none, leaves the armed timer where it is, and that timer looks
again when it fires.
"""

from collections.abc import Callable

from emu.clock import Clock, Timer


class Alarm:
    """Calls `ring` once `now_ns()` reaches the deadline; setting it anew replaces the deadline."""

    __slots__ = ("_armed_ns", "_clock", "_ring", "_timer", "deadline_ns")

    def __init__(self, clock: Clock, ring: Callable[[], None]) -> None:
        self._clock, self._ring = clock, ring
        self._timer: Timer | None = None
        self._armed_ns = 0
        self.deadline_ns: int | None = None

    def set(self, deadline_ns: int) -> None:
        """Ring at `deadline_ns`, and no longer at any earlier set time."""
        self.deadline_ns = deadline_ns
        if self._timer is not None:
            if self._armed_ns <= deadline_ns:
                return
            self._timer.cancel()
        self._arm(deadline_ns)

    def clear(self) -> None:
        """Do not ring."""
        self.deadline_ns = None

    def _arm(self, deadline_ns: int) -> None:
        self._armed_ns = deadline_ns
        self._timer = self._clock.call_at(deadline_ns, self._fire)

    def _fire(self) -> None:
        self._timer = None
        deadline = self.deadline_ns
        if deadline is None:
            return
        if deadline > self._clock.now_ns():
            self._arm(deadline)
            return
        self.deadline_ns = None
        self._ring()
