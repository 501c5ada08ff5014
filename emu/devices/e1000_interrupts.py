"""Interrupt causes of the 82540EM: mask, throttle, and causes that wait for quiet.

Source: SDM 3.4 (receive and transmit interrupts, timers), 13.4.17 to 13.4.21 (ICR, ITR, ICS, IMS, IMC).
"""

from typing import Final

from emu.bus.costs import Costs
from emu.bus.types import IrqLine
from emu.clock import Clock
from emu.devices.alarm import Alarm

CAUSES: Final = 0x0001_FFFF
THROTTLE_NS: Final = 256
DELAY_NS: Final = 1024


class Interrupts:
    """ICR, IMS and ITR; the only one who moves the pin."""

    def __init__(self, clock: Clock, line: IrqLine, costs: Costs) -> None:
        self._clock, self._line, self._costs = clock, line, costs
        self._alarm = Alarm(clock, self.update)
        self.reset()

    def reset(self) -> None:
        """No cause, nothing enabled, no throttle."""
        self.icr = self.ims = 0
        self.itr = 0
        self._next_ns = 0
        self._asserted = False
        self._alarm.clear()
        self._line.set(False)

    def add(self, causes: int) -> None:
        """Something happened; also the guest's write to ICS."""
        self.icr |= causes & CAUSES
        self.update()

    def read_icr(self) -> int:
        """A read takes all causes, so that the pin goes low."""
        causes, self.icr = self.icr, 0
        self.update()
        return causes

    def write_icr(self, value: int) -> None:
        """Ones clear their causes."""
        self.icr &= ~value
        self.update()

    def write_ims(self, value: int) -> None:
        """Ones enable."""
        self.ims |= value & CAUSES
        self.update()

    def write_imc(self, value: int) -> None:
        """Ones disable."""
        self.ims &= ~value
        self.update()

    def write_itr(self, value: int) -> None:
        """The least time between two interrupts, in 256 ns; 0 for none. Also frees one that waits."""
        self.itr = value & 0xFFFF
        self._next_ns = min(self._next_ns, self._clock.now_ns() + self.itr * THROTTLE_NS)
        self.update()

    def update(self) -> None:
        """Let the pin follow causes and mask, not sooner than ITR allows."""
        if not self.icr & self.ims:
            if self._asserted:
                self._asserted = False
                self._line.set(False)
            return
        if self._asserted:
            return
        if self.itr:
            now = self._clock.now_ns()
            if now < self._next_ns:
                self._alarm.set(self._next_ns)
                return
            self._next_ns = now + self.itr * THROTTLE_NS
        self._asserted = True
        self._costs.interrupts += 1
        self._line.set(True)


class DelayedCause:
    """A cause that waits until no packet has come for a while, or an absolute time has passed.

    `packet` and `absolute` are the timers' registers in 1.024 us units: RDTR and RADV, or TIDV and TADV. A
    packet timer of 0 means no wait, an absolute one of 0 no limit.
    """

    def __init__(self, clock: Clock, interrupts: Interrupts, cause: int) -> None:
        self._clock, self._interrupts, self._cause = clock, interrupts, cause
        self._alarm = Alarm(clock, self.flush)
        self.reset()

    def reset(self) -> None:
        """No timer runs or is set up."""
        self.packet = self.absolute = 0
        self._limit_ns: int | None = None
        self.stop()

    def start(self, also: int = 0) -> None:
        """A packet has come. `also` are causes that do not wait."""
        if not self.packet:
            self._interrupts.add(self._cause | also)
            return
        now = self._clock.now_ns()
        deadline = now + self.packet * DELAY_NS
        if self.absolute:
            if self._limit_ns is None:
                self._limit_ns = now + self.absolute * DELAY_NS
            deadline = min(deadline, self._limit_ns)
        self._alarm.set(deadline)
        if also:
            self._interrupts.add(also)

    def flush(self) -> None:
        """The time has come, or the guest wants it now (RDTR.FPD)."""
        self.stop()
        self._interrupts.add(self._cause)

    def stop(self) -> None:
        """The cause comes another way."""
        self._limit_ns = None
        self._alarm.clear()
