"""The local APIC's timer: one-shot, periodic, or at a value of the time stamp counter.

Source: Intel SDM volume 3 (325384), 11.5.4 (timer), 11.5.4.1 (TSC-deadline mode).
"""

from collections.abc import Callable
from typing import Protocol

from emu.clock import Clock
from emu.devices.alarm import Alarm

ONE_SHOT, PERIODIC, TSC_DEADLINE = 0, 1, 2  # LVT timer bits 18:17; 3 is reserved and taken as one-shot
MODE_SHIFT, MODE_MASK = 17, 3
MIN_PERIOD_NS = 200_000  # a shorter periodic timer would only starve the guest (KVM's limit too)
NS = 1_000_000_000


class TimeStampCounter(Protocol):
    """The CPU's counter, as the timer sees it."""

    def read(self) -> int:
        """What RDTSC gives now."""

    def hz(self) -> int:
        """Its rate."""


class NoCounter:
    """A CPU without one, and a crystal."""

    def __init__(self, crystal_hz: int) -> None:
        self._hz = crystal_hz

    def read(self) -> int:
        """Stands still."""
        return 0

    def hz(self) -> int:
        """The crystal's rate."""
        return self._hz


class ApicTimer:
    """Counts down and calls `fire`; vCPU thread.

    `timer_hz` is the clock before it is divided; once connected, that is the time stamp counter's, since
    CPUID leaf 0x15 tells of one crystal for both, at the ratio 1 (11.5.4).
    """

    __slots__ = (
        "_alarm", "_clock", "_deadline_ns", "_fire", "_tsc", "_tsc_deadline", "divide", "initial", "mode",
    )  # fmt: skip

    def __init__(self, clock: Clock, timer_hz: int, fire: Callable[[], None]) -> None:
        self._clock, self._fire = clock, fire
        self._alarm = Alarm(clock, self._expire)
        self._tsc: TimeStampCounter = NoCounter(timer_hz)
        self.initial = self.divide = self._deadline_ns = self._tsc_deadline = 0
        self.mode = ONE_SHOT

    def connect(self, tsc: TimeStampCounter) -> None:
        """Give it the time stamp counter."""
        self._tsc = tsc

    def reset(self) -> None:
        """Stopped, one-shot."""
        self.initial = self.divide = self._deadline_ns = self._tsc_deadline = 0
        self.mode = ONE_SHOT
        self._alarm.clear()

    def set_mode(self, mode: int) -> None:
        """LVT bits 18:17. Entering or leaving TSC-deadline mode disarms; else the count goes on."""
        if (mode == TSC_DEADLINE) != (self.mode == TSC_DEADLINE):
            self.initial = self._tsc_deadline = 0
            self._alarm.clear()
        self.mode = mode

    # The counter

    def current(self) -> int:
        """Ticks left until the timer fires; 0 where it is stopped, and in TSC-deadline mode."""
        if self._alarm.deadline_ns is None or self.mode == TSC_DEADLINE:
            return 0
        left = self._deadline_ns - self._clock.now_ns()
        return min(max(left * self._tsc.hz() // (NS * self._divisor()), 0), self.initial)

    def write_initial(self, value: int) -> None:
        """Start from `value`; 0 stops. Nothing in TSC-deadline mode."""
        if self.mode != TSC_DEADLINE:
            self.initial = value
            self._start(value)

    def write_divide(self, value: int) -> None:
        """The count goes on at the new rate."""
        left = self.current()
        self.divide = value & 0xB
        if self.mode != TSC_DEADLINE:
            self._start(left)

    def _divisor(self) -> int:
        code = self.divide & 3 | self.divide >> 1 & 4
        return 1 << (code + 1 & 7)

    def _ns_of(self, ticks: int) -> int:
        """The time that `ticks` of the divided clock take, rounded up."""
        return -(-ticks * self._divisor() * NS // self._tsc.hz())

    def _start(self, ticks: int) -> None:
        if ticks:
            self._arm(self._clock.now_ns() + self._ns_of(ticks))
        else:
            self._alarm.clear()

    def _arm(self, deadline_ns: int) -> None:
        self._deadline_ns = deadline_ns
        self._alarm.set(deadline_ns)

    # The deadline

    @property
    def tsc_deadline(self) -> int:
        """IA32_TSC_DEADLINE: 0 where none is armed."""
        return self._tsc_deadline

    def write_tsc_deadline(self, value: int) -> None:
        """Fire once the time stamp counter reaches `value`; 0 disarms. Nothing in the other modes."""
        if self.mode == TSC_DEADLINE:
            self._tsc_deadline = value
            self.tsc_changed()

    def tsc_changed(self) -> None:
        """Arm by the counter as it is now."""
        if not self._tsc_deadline:
            if self.mode == TSC_DEADLINE:
                self._alarm.clear()
            return
        left = self._tsc_deadline - self._tsc.read()
        if left > 0:
            self._alarm.set(self._clock.now_ns() - (-left * NS // self._tsc.hz()))
        else:
            self._alarm.clear()
            self._tsc_deadline = 0
            self._fire()

    def _expire(self) -> None:
        """Zero is reached. A periodic timer goes on from its own deadline; missed periods are dropped."""
        if self.mode == TSC_DEADLINE:
            self.tsc_changed()  # which looks at the counter itself: never too early
            return
        if self.mode == PERIODIC and self.initial:
            period = max(self._ns_of(self.initial), MIN_PERIOD_NS)
            missed = max(self._clock.now_ns() - self._deadline_ns, 0) // period
            self._arm(self._deadline_ns + (missed + 1) * period)
        self._fire()
