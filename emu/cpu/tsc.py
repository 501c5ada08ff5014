"""How fast the time stamp counter runs: measured once, then a constant, as CPUID's leaf 0x15 is one."""

import time
from collections.abc import Callable
from typing import Final

from emu.cpu.msr import MASK64

WAIT_NS: Final = 10_000_000
TRIES: Final = 20
"""Pairs of readings, the closest of which counts: 10 ms then give 5 ppm, where a single pair gives 1000."""


def paired(read_tsc: Callable[[], int]) -> tuple[int, int]:
    """The counter, and the host's monotonic clock in ns at the same moment."""
    best = (1 << 62, 0, 0)
    for _ in range(TRIES):
        before = time.monotonic_ns()
        ticks = read_tsc()
        after = time.monotonic_ns()
        best = min(best, (after - before, ticks, (before + after) // 2))
    return best[1:]


class TscRate:
    """Measures from its construction to the first `hz`, at least WAIT_NS."""

    def __init__(self, read_tsc: Callable[[], int]) -> None:
        self._read = read_tsc
        self._since = paired(read_tsc)
        self._hz = 0

    def hz(self) -> int:
        """Ticks a second; waits where it is asked too early."""
        if not self._hz:
            left = self._since[1] + WAIT_NS - time.monotonic_ns()
            if left > 0:
                time.sleep(left / 1e9)
            ticks, now = paired(self._read)
            self._hz = round((ticks - self._since[0]) * 1e9 / (now - self._since[1]))
        return self._hz


class GuestTsc:
    """IA32_TIME_STAMP_COUNTER and IA32_TSC_ADJUST (SDM volume 3, 17.17.3); zero at construction.

    `set_offset(offset)` tells the engine what RDTSC adds to the host's counter; `on_change()` hears of
    each time that the guest sets the counter.
    """

    def __init__(self, host_tsc: Callable[[], int], set_offset: Callable[[int], None]) -> None:
        self._host_tsc, self._set_offset = host_tsc, set_offset
        self.hz = TscRate(host_tsc).hz
        self.adjust = 0
        self.on_change: Callable[[], None] = _nobody
        self._offset = -host_tsc()
        set_offset(self._offset)

    def read(self) -> int:
        """What RDTSC gives now."""
        return self._host_tsc() + self._offset & MASK64

    def write(self, value: int) -> bool:
        """Set the counter; TSC_ADJUST keeps the difference."""
        return self.write_adjust(self.adjust + value - self.read() & MASK64)

    def write_adjust(self, value: int) -> bool:
        """Set TSC_ADJUST; the counter moves by the difference."""
        self._offset += value - self.adjust
        self.adjust = value
        self._set_offset(self._offset)
        self.on_change()
        return True


def _nobody() -> None:
    """No deadline depends on it."""
