"""MC146818A real-time clock with 128 bytes of CMOS RAM.

Sources: Motorola MC146818A datasheet (ADI1061); the century byte 0x32, the memory sizes and the upper RAM
are the PC's. The time follows the machine's clock; nothing ticks. Registers are computed when read, flags
when register C is read, and a timer runs only towards the next interrupt that is enabled.
"""

from dataclasses import dataclass, field

from emu.bus.saved_state import Limits, Saved, pack, unpack
from emu.bus.types import IrqLine
from emu.clock import Clock
from emu.devices.alarm import Alarm
from emu.devices.rtc_calendar import civil_from_days, days_from_civil

NS = 1_000_000_000
DAY = 86_400
CRYSTAL_HZ = 32_768
UIP_NS = 244_141  # UIP is high 8 crystal clocks before an update

SECONDS, SECONDS_ALARM, MINUTES, MINUTES_ALARM, HOURS, HOURS_ALARM = range(6)
WEEKDAY, DAY_OF_MONTH, MONTH, YEAR, REG_A, REG_B, REG_C, REG_D = range(6, 14)
CENTURY, PS2_CENTURY = 0x32, 0x37
SIZE = 128

A_UIP, A_DIVIDER, A_RATE, A_NORMAL = 0x80, 0x70, 0x0F, 0x26
A_RESET = 0x60  # both bits set: the divider is held in reset
B_SET, B_PIE, B_AIE, B_UIE, B_SQWE, B_BINARY, B_24H = 0x80, 0x40, 0x20, 0x10, 0x08, 0x04, 0x02
C_IRQF, C_PF, C_AF, C_UF = 0x80, 0x40, 0x20, 0x10
D_VRT = 0x80
HOUR_PM = 0x80
ANY = 0xC0  # an alarm byte from here on matches everything

_TIME = frozenset((SECONDS, MINUTES, HOURS, WEEKDAY, DAY_OF_MONTH, MONTH, YEAR, CENTURY))
_NAMES = {
    SECONDS: "Seconds",
    SECONDS_ALARM: "Seconds Alarm",
    MINUTES: "Minutes",
    MINUTES_ALARM: "Minutes Alarm",
    HOURS: "Hours",
    HOURS_ALARM: "Hours Alarm",
    WEEKDAY: "Day of Week",
    DAY_OF_MONTH: "Date of Month",
    MONTH: "Month",
    YEAR: "Year",
    REG_A: "Register A",
    REG_B: "Register B",
    REG_C: "Register C",
    REG_D: "Register D",
    CENTURY: "Century",
}
_ANY_TIME = range(-(1 << 80), 1 << 80)  # a guest may set any year from 0 on
_LIMITS: Limits = {"index": SIZE - 1, "base_ns": _ANY_TIME, "checked_ns": _ANY_TIME}


@dataclass(slots=True)
class RtcState:
    """The battery keeps all but the index and some enable bits, so reset touches little of it.

    RTC time in ns since 1970 is `base_ns` plus the clock's time. While it stands still (SET, or the divider
    in reset), the time registers in `cmos` hold it instead.
    """

    cmos: bytearray = field(default_factory=lambda: bytearray(SIZE))
    index: int = 0
    base_ns: int = 0
    checked_ns: int = 0  # flags are up to date to this RTC time


class RtcMc146818:
    """The clock behind ports 0x70 and 0x71; a Region of those two. Owned by the vCPU thread.

    `base_time` is what the clock shows at machine time 0, in seconds since 1970-01-01 UTC. The memory sizes,
    in bytes, go to where firmware looks for them.
    """

    size = 2
    KIND, VERSION = "rtc-mc146818", 1

    def __init__(
        self, clock: Clock, irq: IrqLine, base_time: int, *, ram_below_4g: int, ram_above_4g: int = 0
    ) -> None:
        self._clock, self._irq = clock, irq
        self._alarm = Alarm(clock, self._due)
        self.state = RtcState(base_ns=base_time * NS)
        self.state.checked_ns = self._time_ns()
        cmos = self.state.cmos
        cmos[REG_A], cmos[REG_B], cmos[REG_D] = A_NORMAL, B_24H, D_VRT
        self._store_memory_sizes(ram_below_4g, ram_above_4g)

    # The guest's side.

    def read(self, offset: int, _width: int) -> int:
        """Port 0x71: the indexed byte. Port 0x70 is write-only and reads as all ones."""
        return self.cmos_read(self.state.index) if offset else 0xFF

    def write(self, offset: int, _width: int, value: int) -> None:
        """Port 0x70: the index (bit 7 masks NMI, which nothing here raises). Port 0x71: the byte."""
        if offset:
            self._write_byte(self.state.index, value)
        else:
            self.state.index = value & 0x7F

    def register_name(self, offset: int, _is_write: bool) -> str:
        """Index, or the name of the byte it selects now."""
        if not offset:
            return "Index"
        index = self.state.index
        return _NAMES.get(index) or f"CMOS {index:#04x}"

    # The board's side.

    def cmos_read(self, index: int) -> int:
        """One byte as the guest reads it; register C with its side effects."""
        cmos = self.state.cmos
        if index == PS2_CENTURY:
            index = CENTURY
        if index in _TIME:
            if self._running():
                self._store_time(self._time_ns())
            return cmos[index]
        if index == REG_A:
            return cmos[REG_A] | (A_UIP if self._updating() else 0)
        if index == REG_C:
            self._collect_flags()
            flags, cmos[REG_C] = cmos[REG_C], 0
            self._update()
            return flags
        return cmos[index]

    def cmos_write(self, index: int, value: int) -> None:
        """Store a plain RAM byte (0x0E and up), for what the board tells its firmware."""
        self.state.cmos[index] = value

    def reset(self) -> None:
        """The RESET input: interrupts off, flags clear; time and RAM stay."""
        cmos = self.state.cmos
        cmos[REG_B] &= ~(B_PIE | B_AIE | B_UIE | B_SQWE) & 0xFF
        cmos[REG_C] = 0
        self.state.index = 0
        self.state.checked_ns = self._time_ns()
        self._update()

    def save(self) -> dict[str, object]:
        """The state as plain values."""
        return pack(self.KIND, self.VERSION, self.state)

    def load(self, saved: Saved) -> None:
        """Take a saved state; the interrupt line takes its level without an edge. Raises ConfigError."""
        self.state = unpack(self.KIND, self.VERSION, saved, RtcState(), _LIMITS)
        cmos = self.state.cmos
        cmos[REG_A] &= ~A_UIP & 0xFF
        cmos[REG_C] &= C_PF | C_AF | C_UF
        cmos[REG_D] = D_VRT
        # Flags of a time long past are not searched for, nor is a time in the future believed.
        self.state.checked_ns = self._time_ns()
        if self._interrupting():
            cmos[REG_C] |= C_IRQF
        self._irq.restore(self._interrupting())
        self._arm()

    # Time.

    def _time_ns(self) -> int:
        """RTC time now; its part below a second is the divider chain's phase, also while SET."""
        return self.state.base_ns + self._clock.now_ns()

    def _divider_on(self) -> bool:
        return self.state.cmos[REG_A] & A_DIVIDER <= 0x20

    def _running(self) -> bool:
        return self._divider_on() and not self.state.cmos[REG_B] & B_SET

    def _updating(self) -> bool:
        return self._running() and self._time_ns() % NS >= NS - UIP_NS

    def _decode(self, value: int) -> int:
        """A time byte's number: BCD or binary by register B. Nonsense digits count as they are."""
        return value if self.state.cmos[REG_B] & B_BINARY else (value >> 4) * 10 + (value & 15)

    def _encode(self, number: int) -> int:
        return number if self.state.cmos[REG_B] & B_BINARY else number // 10 << 4 | number % 10

    def _decode_hour(self, value: int) -> int:
        if self.state.cmos[REG_B] & B_24H:
            return self._decode(value & 0x7F)
        return self._decode(value & 0x7F) % 12 + (12 if value & HOUR_PM else 0)

    def _encode_hour(self, hour: int) -> int:
        if self.state.cmos[REG_B] & B_24H:
            return self._encode(hour)
        return self._encode(hour % 12 or 12) | (HOUR_PM if hour >= 12 else 0)

    def _store_time(self, time_ns: int) -> None:
        """RTC time into the registers."""
        days, second = divmod(time_ns // NS, DAY)
        year, month, day = civil_from_days(days)
        cmos, encode = self.state.cmos, self._encode
        cmos[SECONDS] = encode(second % 60)
        cmos[MINUTES] = encode(second // 60 % 60)
        cmos[HOURS] = self._encode_hour(second // 3600)
        cmos[WEEKDAY] = encode((days + 4) % 7 + 1)  # 1970-01-01 was a Thursday; Sunday is 1
        cmos[DAY_OF_MONTH], cmos[MONTH], cmos[YEAR] = encode(day), encode(month), encode(year % 100)
        cmos[CENTURY] = encode(year // 100 % 100)

    def _take_time(self, phase_ns: int) -> None:
        """The registers become RTC time, `phase_ns` into their second; what is out of range carries over."""
        cmos, decode = self.state.cmos, self._decode
        year = decode(cmos[CENTURY]) * 100 + decode(cmos[YEAR])
        days = days_from_civil(year, decode(cmos[MONTH]), decode(cmos[DAY_OF_MONTH]))
        second = self._decode_hour(cmos[HOURS]) * 3600 + decode(cmos[MINUTES]) * 60 + decode(cmos[SECONDS])
        time_ns = (days * DAY + second) * NS + phase_ns
        self.state.base_ns = time_ns - self._clock.now_ns()
        self.state.checked_ns = time_ns

    # Writes.

    def _write_byte(self, index: int, value: int) -> None:
        if index == PS2_CENTURY:
            index = CENTURY
        if index in (REG_C, REG_D):
            return
        if index == REG_A:
            self._write_a(value & ~A_UIP & 0xFF)
        elif index == REG_B:
            self._write_b(value)
        elif index in _TIME:
            self._write_time(index, value)
        else:
            self._collect_flags()  # those of the alarm as it was
            self.state.cmos[index] = value
            if index <= HOURS_ALARM:
                self._arm()

    def _write_time(self, index: int, value: int) -> None:
        cmos = self.state.cmos
        if not self._running():
            cmos[index] = value
            return
        self._collect_flags()
        now = self._time_ns()
        self._store_time(now)
        cmos[index] = value
        self._take_time(now % NS)
        self._arm()

    def _write_a(self, value: int) -> None:
        """The divider: in reset, time stands still; the first update comes half a second after its end."""
        self._collect_flags()
        was_running, was_on = self._running(), self._divider_on()
        if was_running:
            self._store_time(self._time_ns())
        cmos = self.state.cmos
        cmos[REG_A] = value
        if not was_on and self._divider_on():
            if cmos[REG_B] & B_SET:
                self.state.base_ns += NS // 2 - self._time_ns() % NS
                self.state.checked_ns = self._time_ns()
            else:
                self._take_time(NS // 2)
        self._arm()

    def _write_b(self, value: int) -> None:
        """SET stops the updates (and UIE); its end starts them from the registers."""
        self._collect_flags()
        cmos, now = self.state.cmos, self._time_ns()
        old = cmos[REG_B]
        if value & B_SET:
            if self._running():
                self._store_time(now)
            value &= ~B_UIE
            cmos[REG_B] = value
        else:
            cmos[REG_B] = value
            if old & B_SET and self._divider_on():
                self._take_time(now % NS)
        self._update()

    def _store_memory_sizes(self, below_4g: int, above_4g: int) -> None:
        """Kilobytes below 1 MiB and above it, then 64 KiB units above 16 MiB and above 4 GiB."""
        mib = 1 << 20
        base_kib = min(640, below_4g >> 10)
        above_1m = min(0xFFFF, max(0, below_4g - mib) >> 10)
        above_16m = min(0xFFFF, max(0, below_4g - 16 * mib) >> 16)
        above = min(0xFFFFFF, above_4g >> 16)
        for index, value, length in (
            (0x15, base_kib, 2),
            (0x17, above_1m, 2),
            (0x30, above_1m, 2),
            (0x34, above_16m, 2),
            (0x5B, above, 3),
        ):
            self.state.cmos[index : index + length] = value.to_bytes(length, "little")

    # Interrupts.

    def _interrupting(self) -> bool:
        cmos = self.state.cmos
        return bool(cmos[REG_B] & cmos[REG_C] & (C_PF | C_AF | C_UF))

    def _update(self) -> None:
        """IRQF, the line and the timer follow the flags; the only place that moves the line."""
        cmos = self.state.cmos
        level = self._interrupting()
        cmos[REG_C] = cmos[REG_C] & ~C_IRQF & 0xFF | (C_IRQF if level else 0)
        self._irq.set(level)
        self._arm()

    def _due(self) -> None:
        self._collect_flags()
        self._update()

    def _period_clocks(self) -> int:
        """Crystal clocks a periodic interrupt, or 0 for none. Datasheet table 5, 32.768 kHz time base."""
        rate = self.state.cmos[REG_A] & A_RATE
        if not rate or not self._divider_on():
            return 0
        return 1 << (rate - 1 if rate > 2 else rate + 6)

    def _collect_flags(self) -> None:
        """Set the flags of everything that has come since the last look."""
        state = self.state
        now, last = self._time_ns(), state.checked_ns
        state.checked_ns = now
        flags = 0
        if (period := self._period_clocks()) and _clocks(now) // period != _clocks(last) // period:
            flags |= C_PF
        if now // NS != last // NS and self._running():
            flags |= C_UF
            alarm = self._next_alarm(last // NS)
            if alarm is not None and alarm <= now // NS:
                flags |= C_AF
        state.cmos[REG_C] |= flags

    def _next_alarm(self, after: int) -> int | None:
        """The first second beyond `after` that the alarm bytes match, or None. About 150 steps at most."""
        cmos = self.state.cmos
        hour = None if cmos[HOURS_ALARM] >= ANY else self._decode_hour(cmos[HOURS_ALARM])
        minute = None if cmos[MINUTES_ALARM] >= ANY else self._decode(cmos[MINUTES_ALARM])
        second = None if cmos[SECONDS_ALARM] >= ANY else self._decode(cmos[SECONDS_ALARM])
        if (hour or 0) > 23 or (minute or 0) > 59 or (second or 0) > 59:
            return None
        at, end = after + 1, after + 1 + DAY
        while at < end:
            if hour is not None and at // 3600 % 24 != hour:
                at = (at // 3600 + 1) * 3600
            elif minute is not None and at // 60 % 60 != minute:
                at = (at // 60 + 1) * 60
            elif second is not None and at % 60 != second:
                at += (second - at) % 60
            else:
                return at
        return None

    def _arm(self) -> None:
        """One timer for the earliest enabled interrupt whose flag is not set yet."""
        state = self.state
        wanted = state.cmos[REG_B] & ~state.cmos[REG_C]
        due: list[int] = []
        if wanted & B_PIE and (period := self._period_clocks()):
            clocks = (_clocks(state.checked_ns) // period + 1) * period
            due.append(-(-clocks * NS // CRYSTAL_HZ))
        if self._running():
            second = state.checked_ns // NS
            if wanted & B_UIE:
                due.append((second + 1) * NS)
            if wanted & B_AIE and (alarm := self._next_alarm(second)) is not None:
                due.append(alarm * NS)
        if due:
            self._alarm.set(min(due) - state.base_ns)
        else:
            self._alarm.clear()


def _clocks(time_ns: int) -> int:
    """Crystal clocks in an RTC time."""
    return time_ns * CRYSTAL_HZ // NS
