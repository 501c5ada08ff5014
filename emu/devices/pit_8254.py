"""8254 programmable interval timer. Source: Intel 8254 datasheet (order number 231164).

Nothing ticks: a count is computed from the clock when it is read, and OUT0's rising edges are timers on the
clock. Choices:

- A new count starts at once, in modes 2 and 3 too (the part would finish the running period first).
- OUT0 is a level in mode 0; in modes 2 to 5 each rising edge of OUT is a short pulse on the line.
- A period below `MIN_PERIOD_NS` interrupts only every `MIN_PERIOD_NS` or a little more, on the period's
  grid. When the machine falls behind, edges that lie in the past are skipped: one is pending, never a burst.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from emu.bus.saved_state import check_kind, pack, part, unpack
from emu.bus.types import IrqLine
from emu.clock import Clock
from emu.devices.alarm import Alarm

FREQUENCY_HZ = 1_193_182
NS = 1_000_000_000
MIN_PERIOD_NS = 20_000  # 50 kHz: above what any system programs, below what a Python handler can serve

CONTROL = 3  # port offset of the control word
LATCH_COMMAND, LOW_BYTE, HIGH_BYTE, BOTH_BYTES = range(4)  # control word bits 5 and 4
READ_BACK, READ_BACK_NO_COUNT, READ_BACK_NO_STATUS = 3, 0x20, 0x10
STATUS_OUT, STATUS_NULL_COUNT = 0x80, 0x40

TERMINAL_COUNT, ONE_SHOT, RATE, SQUARE_WAVE, SOFTWARE_STROBE, HARDWARE_STROBE = range(6)

_LIMITS = {
    "mode": HARDWARE_STROBE,
    "access": BOTH_BYTES,
    "count": 0x10000,
    "load_ns": 1 << 63,
    "held": 1 << 63,
    "latched": 0xFFFF,
    "latched_bytes": 2,
}


@dataclass(slots=True)
class PitState:
    """One counter."""

    mode: int = SQUARE_WAVE
    access: int = BOTH_BYTES
    bcd: bool = False
    gate: bool = True
    count: int = 0x10000  # clocks a period; 0 in the count register stands for the largest
    loaded: bool = True  # False between a control word and its count: NULL COUNT
    counting: bool = True  # False while the gate or a half-written count holds it
    load_ns: int = 0  # when the count was loaded or triggered
    held: int = 0  # clocks passed when it was stopped
    first_byte: int = 0
    write_high: bool = False  # the second byte of a pair comes next
    read_high: bool = False
    latched: int = 0
    latched_bytes: int = 0  # how many are yet to be read
    status: int = 0
    status_latched: bool = False


class Counter:
    """One of the three counters, with its gate and OUT."""

    def __init__(self, clock: Clock, *, gate: bool, changed: Callable[[], None]) -> None:
        self._clock = clock
        self._changed = changed  # OUT follows a new schedule
        self._first_gate = gate
        self.state = PitState(gate=gate, counting=gate)

    def reset(self) -> None:
        """Power-on: what firmware would have left, mode 3 at the slowest rate."""
        now = self._clock.now_ns()
        self.state = PitState(gate=self._first_gate, counting=self._first_gate, load_ns=now)
        self._changed()

    def clocks(self, now_ns: int) -> int:
        """Input clocks since the count was loaded, pauses apart."""
        state = self.state
        return (now_ns - state.load_ns) * FREQUENCY_HZ // NS if state.counting else state.held

    def value(self) -> int:
        """The counting element as a read shows it, 16 bits."""
        state = self.state
        passed, count = self.clocks(self._clock.now_ns()), state.count
        if state.mode == RATE:
            value = count - passed % count
        elif state.mode == SQUARE_WAVE:
            value = _square_value(count, passed % count)
        else:
            value = count - passed
        if state.bcd:
            return _to_bcd(value % 10_000)
        return value & 0xFFFF

    def out(self) -> bool:
        """The level of OUT."""
        state = self.state
        if not state.loaded:
            return state.mode != TERMINAL_COUNT
        passed, count = self.clocks(self._clock.now_ns()), state.count
        if state.mode == TERMINAL_COUNT:
            return passed >= count
        if state.mode == ONE_SHOT:
            return not state.counting or passed >= count
        if state.mode == RATE:
            return not state.counting or passed % count != count - 1
        if state.mode == SQUARE_WAVE:
            return not state.counting or passed % count < (count + 1) // 2
        return passed != count

    def next_rise_ns(self, now_ns: int) -> int | None:
        """When OUT rises next after `now_ns`, or None. Rises that follow too fast are left out."""
        state = self.state
        if not (state.counting and state.loaded):
            return None
        passed, count = self.clocks(now_ns), state.count
        if state.mode in (RATE, SQUARE_WAVE):
            earliest = passed + 1
            if count * NS < MIN_PERIOD_NS * FREQUENCY_HZ:
                earliest = max(earliest, self.clocks(now_ns + MIN_PERIOD_NS))
            at = -(-earliest // count) * count
        elif passed < count:
            at = count
        else:
            return None
        return state.load_ns - (-at * NS // FREQUENCY_HZ)

    def set_gate(self, level: bool) -> None:
        """The GATE input: pauses modes 0 and 4, stops and restarts 2 and 3, triggers 1 and 5."""
        state = self.state
        if level == state.gate:
            return
        state.gate = level
        now = self._clock.now_ns()
        if state.mode in (ONE_SHOT, HARDWARE_STROBE):
            if level and state.loaded:
                self._start(now)
        elif not level:
            self._hold(now)
        elif state.loaded:
            if state.mode in (RATE, SQUARE_WAVE):
                self._start(now)
            else:
                state.load_ns = now - -(-state.held * NS // FREQUENCY_HZ)
                state.counting = True
        self._changed()

    def control(self, value: int) -> None:
        """A control word for this counter."""
        state = self.state
        access = value >> 4 & 3
        if access == LATCH_COMMAND:
            self.latch_count()
            return
        mode = value >> 1 & 7
        self._hold(self._clock.now_ns())
        state.access, state.mode = access, mode & 3 if mode > HARDWARE_STROBE else mode
        state.bcd = bool(value & 1)
        state.loaded = state.write_high = state.read_high = state.status_latched = False
        state.latched_bytes = 0
        self._changed()

    def write(self, value: int) -> None:
        """A byte of the count, as the access mode says."""
        state = self.state
        if state.access == LOW_BYTE:
            self._load(value)
        elif state.access == HIGH_BYTE:
            self._load(value << 8)
        elif state.write_high:
            state.write_high = False
            self._load(value << 8 | state.first_byte)
        else:
            state.write_high = True
            state.first_byte = value
            if state.mode == TERMINAL_COUNT:  # the first byte stops the counting
                self._hold(self._clock.now_ns())
                state.loaded = False
                self._changed()

    def read(self) -> int:
        """A latched status, else a latched count, else the counting element."""
        state = self.state
        if state.status_latched:
            state.status_latched = False
            return state.status
        if state.latched_bytes:
            value = state.latched
            state.latched_bytes -= 1
            if state.access == BOTH_BYTES:
                return value & 0xFF if state.latched_bytes else value >> 8
            return value >> 8 if state.access == HIGH_BYTE else value & 0xFF
        value = self.value()
        if state.access == LOW_BYTE:
            return value & 0xFF
        if state.access == HIGH_BYTE:
            return value >> 8
        state.read_high = not state.read_high
        return value & 0xFF if state.read_high else value >> 8

    def latch_count(self) -> None:
        """Hold the count for the reads to come; a count latched before stays."""
        state = self.state
        if not state.latched_bytes:
            state.latched = self.value()
            state.latched_bytes = 2 if state.access == BOTH_BYTES else 1

    def latch_status(self) -> None:
        """Hold the status byte for the next read; a status latched before stays."""
        state = self.state
        if state.status_latched:
            return
        state.status_latched = True
        state.status = (
            (STATUS_OUT if self.out() else 0)
            | (0 if state.loaded else STATUS_NULL_COUNT)
            | state.access << 4
            | state.mode << 1
            | state.bcd
        )

    def _load(self, value: int) -> None:
        state = self.state
        state.count = (_from_bcd(value) or 10_000) if state.bcd else (value or 0x10000)
        state.loaded = True
        if state.mode in (ONE_SHOT, HARDWARE_STROBE):  # these wait for the gate
            if not state.counting:
                state.held = 0
        elif state.gate:
            self._start(self._clock.now_ns())
        else:
            state.held = 0
        self._changed()

    def _start(self, now_ns: int) -> None:
        self.state.load_ns = now_ns
        self.state.counting = True

    def _hold(self, now_ns: int) -> None:
        state = self.state
        state.held = self.clocks(now_ns)
        state.counting = False


class Pit8254:
    """The three counters; a Region of 4 byte-wide ports. Owned by the vCPU thread.

    Counter 0 drives `out0`; counter 2's gate and OUT go to port 0x61; gates 0 and 1 are tied high.
    """

    size = 4
    KIND, VERSION = "pit-8254", 1

    def __init__(self, clock: Clock, out0: IrqLine) -> None:
        self._clock, self._out0 = clock, out0
        self._alarm = Alarm(clock, self._rise)
        self.counters = (
            Counter(clock, gate=True, changed=self._schedule),
            Counter(clock, gate=True, changed=_nothing),
            Counter(clock, gate=False, changed=_nothing),
        )
        self._schedule()

    def read(self, offset: int, _width: int) -> int:
        """A counter; the control word cannot be read back and gives 0."""
        return 0 if offset == CONTROL else self.counters[offset].read()

    def write(self, offset: int, _width: int, value: int) -> None:
        """A byte of a count, or the control word."""
        if offset != CONTROL:
            self.counters[offset].write(value)
        elif value >> 6 == READ_BACK:
            for number, counter in enumerate(self.counters):
                if value & 2 << number:
                    if not value & READ_BACK_NO_COUNT:
                        counter.latch_count()
                    if not value & READ_BACK_NO_STATUS:
                        counter.latch_status()
        else:
            self.counters[value >> 6].control(value)

    def register_name(self, offset: int, _is_write: bool) -> str:
        """Counter 0 to 2, or Control."""
        return ("Counter 0", "Counter 1", "Counter 2", "Control")[offset]

    def set_gate2(self, level: bool) -> None:
        """Counter 2's GATE, from port 0x61."""
        self.counters[2].set_gate(level)

    def gate2(self) -> bool:
        """What `set_gate2` set."""
        return self.counters[2].state.gate

    def out2(self) -> bool:
        """Counter 2's OUT, to port 0x61 and the speaker."""
        return self.counters[2].out()

    def reset(self) -> None:
        """Power-on state."""
        for counter in self.counters:
            counter.reset()

    def save(self) -> dict[str, object]:
        """The three counters as plain values."""
        inner = {f"counter{n}": pack("pit-8254-counter", 1, c.state) for n, c in enumerate(self.counters)}
        return {"kind": self.KIND, "version": self.VERSION, **inner}

    def load(self, saved: Mapping[str, object]) -> None:
        """Take a saved state; OUT0 takes its level without an edge. Raises ConfigError."""
        check_kind(self.KIND, self.VERSION, saved)
        states = [
            unpack("pit-8254-counter", 1, part(self.KIND, saved, f"counter{n}"), PitState(), _LIMITS)
            for n in range(3)
        ]
        for counter, state in zip(self.counters, states, strict=True):
            # A period of nothing or one clock, and an access mode of 0, cannot be programmed.
            counter.state = replace(state, count=max(1, state.count), access=state.access or BOTH_BYTES)
        self._out0.restore(self._level())
        self._arm()

    def _level(self) -> bool:
        """OUT0 as the line shows it: a level in mode 0 alone."""
        first = self.counters[0]
        return first.state.mode == TERMINAL_COUNT and first.out()

    def _schedule(self) -> None:
        """Counter 0 was programmed: the line and its timer follow."""
        self._out0.set(self._level())
        self._arm()

    def _arm(self) -> None:
        deadline = self.counters[0].next_rise_ns(self._clock.now_ns())
        if deadline is None:
            self._alarm.clear()
        else:
            self._alarm.set(deadline)

    def _rise(self) -> None:
        """OUT0's edge is due."""
        self._out0.set(True)
        if not self._level():
            self._out0.set(False)
        self._arm()


def _square_value(count: int, phase: int) -> int:
    """Mode 3 counts down by two, twice a period; an odd count's first half is one clock longer."""
    even = count & ~1
    half = (count + 1) // 2
    return even - 2 * (phase if phase < half else phase - half)


def _from_bcd(value: int) -> int:
    """Four decimal digits; digits beyond 9 count as they are, and wrap at 10,000."""
    digits = (value >> 12) * 1000 + (value >> 8 & 15) * 100 + (value >> 4 & 15) * 10 + (value & 15)
    return digits % 10_000


def _to_bcd(value: int) -> int:
    return value // 1000 << 12 | value // 100 % 10 << 8 | value // 10 % 10 << 4 | value % 10


def _nothing() -> None:
    """A counter whose OUT drives no timer."""
