"""The high precision event timer: a counter of 100 MHz and three comparators.

Source: Intel, IA-PC HPET specification 1.0a: 2.3.4 to 2.3.9 (registers), 2.3.9.2 (one-shot and periodic),
2.4.6 (legacy replacement). Registers are of 64 bits, here always in halves: as the specification has it for
32-bit software, VAL_SET goes for one half. No comparator sends messages (FSB).
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from emu.bus.types import AccessError, Fault, IrqLine
from emu.clock import Clock
from emu.devices.alarm import Alarm

SIZE, DEFAULT_BASE = 0x400, 0xFED0_0000
TICK_NS, TIMERS = 10, 3
LEG_RT_CAP, COUNT_SIZE_CAP, REVISION, INTEL = 1 << 15, 1 << 13, 0x01, 0x8086
CAPABILITIES: Final = INTEL << 16 | LEG_RT_CAP | COUNT_SIZE_CAP | TIMERS - 1 << 8 | REVISION
PERIOD_FS: Final = TICK_NS * 1_000_000

GCAP_ID, GEN_CONF, GINTR_STA, MAIN_CNT = 0x000, 0x010, 0x020, 0x0F0
TIMER0, TIMER_STEP, TIMER_CONF, TIMER_CMP, TIMER_FSB = 0x100, 0x20, 0x00, 0x08, 0x10
ENABLE_CNF, LEG_RT_CNF = 1 << 0, 1 << 1
INT_TYPE, INT_ENB, TYPE_PERIODIC, PER_INT_CAP, SIZE_CAP, VAL_SET, MODE32 = (
    1 << i for i in (1, 2, 3, 4, 5, 6, 8)
)
ROUTE_SHIFT, ROUTE_MASK = 9, 0x1F << 9
CONF_BITS: Final = INT_TYPE | INT_ENB | TYPE_PERIODIC | VAL_SET | MODE32
MASK32, MASK64 = (1 << 32) - 1, (1 << 64) - 1
NS_MIN_PERIOD: Final = 200_000
"""A shorter periodic interrupt would only starve the guest; the comparator counts on as it should."""
SPLIT_TICKS: Final = 1000
"""The two halves of one 64-bit read of the counter come within this time."""

NAMES: Final = {GCAP_ID: "GCAP_ID", GEN_CONF: "GEN_CONF", GINTR_STA: "GINTR_STA", MAIN_CNT: "MAIN_CNT"}
TIMER_NAMES: Final = {TIMER_CONF: "CONF_CAP", TIMER_CMP: "COMPARATOR", TIMER_FSB: "FSB_ROUTE"}


class _Comparator:
    """One timer's registers."""

    __slots__ = ("alarm", "comparator", "conf", "line", "period")

    def __init__(self, alarm: Alarm, line: IrqLine | None) -> None:
        self.alarm, self.line = alarm, line
        self.reset()

    def reset(self) -> None:
        self.conf = self.period = 0
        self.comparator = MASK64

    @property
    def mask(self) -> int:
        return MASK32 if self.conf & MODE32 else MASK64


class Hpet:
    """The chip; a `Region` of 1 KiB, owned by the vCPU thread.

    `legacy` are wires to IRQ 0 and IRQ 8, which the first two timers drive in legacy replacement mode, and
    `routes` those that a timer may choose, by their number at the I/O APIC. `on_legacy(on)` takes the PIT's
    and the clock's interrupts away, or gives them back.
    """

    size = SIZE

    def __init__(
        self,
        clock: Clock,
        legacy: tuple[IrqLine, IrqLine],
        routes: Mapping[int, IrqLine],
        on_legacy: Callable[[bool], None],
    ) -> None:
        self._clock, self._legacy, self._routes, self._on_legacy = clock, legacy, routes, on_legacy
        self._route_cap = sum(1 << route for route in routes)
        self._timers = [
            _Comparator(Alarm(clock, partial(self._match, number)), None) for number in range(TIMERS)
        ]
        self._conf = self._status = self._offset = self._low_read = 0
        self._halted_at = 0  # the counter while it stands still

    def reset(self) -> None:
        """Halted at 0, nothing enabled, the PIT's and the clock's interrupts in place."""
        self._write_conf(0)
        self._status = self._halted_at = 0
        for timer in self._timers:
            timer.reset()
        self._rewire()

    # Registers

    def read(self, offset: int, width: int) -> int:
        """Read half a register. Raises AccessError for other widths."""
        if width != 4 or offset & 3:
            raise AccessError(Fault.WIDTH)
        register, high = offset & ~7, offset & 4
        if register == MAIN_CNT:
            return self._read_counter(high)
        return self._value(register) >> 8 * high & MASK32

    def write(self, offset: int, width: int, value: int) -> None:
        """Write half a register. Raises AccessError for other widths."""
        if width != 4 or offset & 3:
            raise AccessError(Fault.WIDTH)
        register, high = offset & ~7, offset & 4
        value &= MASK32
        if register >= TIMER0:
            self._write_timer(register - TIMER0, high, value)
        elif register == MAIN_CNT:
            if not self._conf & ENABLE_CNF:
                self._halted_at = _with_half(self._halted_at, high, value)
        elif high:
            return
        elif register == GEN_CONF:
            self._write_conf(value & (ENABLE_CNF | LEG_RT_CNF))
        elif register == GINTR_STA:
            self._status &= ~value
            self._drive()

    def register_name(self, offset: int, is_write: bool) -> str:  # noqa: ARG002 - same both ways
        """The specification's name."""
        register = offset & ~7
        number, inner = divmod(register - TIMER0, TIMER_STEP)
        if register >= TIMER0 and number < TIMERS and inner in TIMER_NAMES:
            return f"TIM{number}_{TIMER_NAMES[inner]}"
        return NAMES.get(register, "reserved")

    def _value(self, register: int) -> int:
        if register == GCAP_ID:
            return PERIOD_FS << 32 | CAPABILITIES
        if register == GEN_CONF:
            return self._conf
        if register == GINTR_STA:
            return self._status
        number, inner = divmod(register - TIMER0, TIMER_STEP)
        if not 0 <= number < TIMERS:
            return 0
        timer = self._timers[number]
        if inner == TIMER_CONF:
            return self._route_cap << 32 | timer.conf | PER_INT_CAP | SIZE_CAP
        return timer.comparator if inner == TIMER_CMP else 0

    def _read_counter(self, high: int) -> int:
        counter = self._counter()
        if not high:
            self._low_read = counter
            return counter & MASK32
        if 0 <= counter - self._low_read < SPLIT_TICKS:  # of the value whose low half was just read
            counter = self._low_read
        return counter >> 32

    def _write_conf(self, value: int) -> None:
        before, counter = self._conf, self._counter()
        self._conf = value
        if value & ~before & ENABLE_CNF:
            self._offset = counter - self._clock.now_ns() // TICK_NS
        elif before & ~value & ENABLE_CNF:
            self._halted_at = counter
        if (before ^ value) & LEG_RT_CNF:
            self._on_legacy(bool(value & LEG_RT_CNF))
            self._rewire()
        for timer in self._timers:
            self._arm(timer)

    def _write_timer(self, offset: int, high: int, value: int) -> None:
        number, inner = divmod(offset, TIMER_STEP)
        if number >= TIMERS:
            return
        timer = self._timers[number]
        if inner == TIMER_CONF and not high:
            self._write_timer_conf(timer, value)
        elif inner == TIMER_CMP:
            self._write_comparator(timer, high, value)
        self._arm(timer)

    def _write_timer_conf(self, timer: _Comparator, value: int) -> None:
        route = value & ROUTE_MASK
        if not self._route_cap >> (route >> ROUTE_SHIFT) & 1:  # reads back as it was (2.3.8)
            route = timer.conf & ROUTE_MASK
        timer.conf = value & CONF_BITS | route
        timer.comparator &= timer.mask
        timer.period &= timer.mask
        if not timer.conf & INT_TYPE:
            self._status &= ~(1 << self._timers.index(timer))
        self._rewire()

    def _write_comparator(self, timer: _Comparator, high: int, value: int) -> None:
        """One-shot: the value to match. Periodic: the period and, after VAL_SET, the next match as well."""
        if high and timer.conf & MODE32:
            value = 0
        periodic = timer.conf & TYPE_PERIODIC
        if not periodic or timer.conf & VAL_SET:
            timer.comparator = _with_half(timer.comparator, high, value)
        if periodic:
            timer.period = _with_half(timer.period, high, value)
        timer.conf &= ~VAL_SET

    # Time

    def _counter(self) -> int:
        if self._conf & ENABLE_CNF:
            return self._clock.now_ns() // TICK_NS + self._offset & MASK64
        return self._halted_at

    def _arm(self, timer: _Comparator, not_before: int = 0) -> None:
        """Ring when the counter reaches the comparator, where somebody would notice."""
        if not self._conf & ENABLE_CNF or not timer.conf & (INT_ENB | INT_TYPE):
            timer.alarm.clear()
            return
        counter = self._counter()
        ticks = timer.comparator - counter & timer.mask
        if ticks >> 63:  # behind a counter of 64 bits: in 5000 years
            timer.alarm.clear()
        else:
            deadline = (counter + ticks - self._offset) * TICK_NS
            timer.alarm.set(max(deadline, not_before))

    def _match(self, number: int) -> None:
        """The counter has reached a comparator; a periodic one goes on by whole periods."""
        timer, now = self._timers[number], self._clock.now_ns()
        if timer.conf & TYPE_PERIODIC and timer.period:
            passed = self._counter() - timer.comparator & timer.mask
            step = (passed // timer.period + 1) * timer.period
            timer.comparator = timer.comparator + step & timer.mask
            self._arm(timer, now + NS_MIN_PERIOD)
        elif timer.conf & MODE32:  # again when the counter's low half comes round
            late = self._counter() - timer.comparator & MASK32
            timer.alarm.set(now + ((1 << 32) - late) * TICK_NS)
        if timer.conf & INT_TYPE:
            self._status |= 1 << number
            self._drive()
        elif timer.conf & INT_ENB and timer.line is not None:
            timer.line.set(True)
            timer.line.set(False)

    # Wires

    def _rewire(self) -> None:
        """Give each timer the wire that the configuration says."""
        for number, timer in enumerate(self._timers):
            if self._conf & LEG_RT_CNF and number < len(self._legacy):
                line: IrqLine | None = self._legacy[number]
            else:
                line = self._routes.get(timer.conf >> ROUTE_SHIFT & 0x1F)
            timer.line = line
        self._drive()

    def _drive(self) -> None:
        """Levels of all wires, from status and configuration."""
        high = [
            timer.line
            for number, timer in enumerate(self._timers)
            if self._status >> number & 1 and timer.conf & INT_ENB and timer.line is not None
        ]
        for line in (*self._legacy, *self._routes.values()):
            line.set(line in high)


def _with_half(value: int, high: int, half: int) -> int:
    """`value` with its upper or lower 32 bits replaced."""
    return value & MASK32 | half << 32 if high else value & ~MASK32 | half
