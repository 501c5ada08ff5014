"""16550A UART. Source: Texas Instruments PC16550D datasheet (SNLS378), sections 8.1 to 8.7.

Output leaves at once: there is no baud-rate delay, so the transmitter is always empty again. The baud rate
counts only for the character timeout of the receive FIFO, and only where a clock is given.
As on most boards' super-I/O chips, MCR.OUT2 does not gate the interrupt.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from emu.bus.saved_state import pack, unpack
from emu.bus.types import IrqLine
from emu.clock import Clock
from emu.devices.alarm import Alarm

# Byte offsets. With LCR.DLAB = 1, offsets 0 and 1 are the divisor latch.
RBR_THR, IER, IIR_FCR, LCR, MCR, LSR, MSR, SCR = range(8)

IER_ERBFI, IER_ETBEI, IER_ELSI, IER_EDSSI = 0x01, 0x02, 0x04, 0x08
IIR_NONE, IIR_MODEM, IIR_THRE, IIR_RDA, IIR_LINE, IIR_TIMEOUT, IIR_FIFOS = (
    0x01,
    0x00,
    0x02,
    0x04,
    0x06,
    0x0C,
    0xC0,
)
FCR_ENABLE, FCR_CLEAR_RX, FCR_CLEAR_TX, FCR_KEPT = 0x01, 0x02, 0x04, 0xC9
LCR_DLAB = 0x80
MCR_DTR, MCR_RTS, MCR_OUT1, MCR_OUT2, MCR_LOOP = 0x01, 0x02, 0x04, 0x08, 0x10
LSR_DR, LSR_OE, LSR_BI, LSR_THRE, LSR_TEMT, LSR_FIFO_ERROR = 0x01, 0x02, 0x10, 0x20, 0x40, 0x80
LSR_CAUSES = 0x1E  # OE, PE, FE, BI
MSR_DELTAS, MSR_TERI, MSR_RI = 0x0F, 0x04, 0x40
MSR_CONNECTED = 0xB0  # DCD, DSR and CTS: someone listens

FIFO_SIZE = 16
WAITING_SIZE = 4096  # host input that has not reached the FIFO; a paste of one page
CRYSTAL_BAUD = 115_200  # 1.8432 MHz / 16
TRIGGERS = (1, 4, 8, 14)  # FCR bits 7 and 6
TIMEOUT_CHARACTERS = 4

_BYTES = tuple(bytes((value,)) for value in range(256))  # no allocation for a byte of output
_LIMITS = {
    "divisor": 0xFFFF,
    "rx": FIFO_SIZE,
    "waiting": WAITING_SIZE,
    "breaks": 0xFFFF,
    "timeout_at_ns": 1 << 63,
}


@dataclass(slots=True)
class UartState:
    """What a reset forgets. (A reset of the real part keeps divisor and SCR; a power cycle does not.)"""

    ier: int = 0
    fcr: int = 0
    lcr: int = 0
    mcr: int = MCR_OUT2
    lsr: int = LSR_THRE | LSR_TEMT
    msr: int = MSR_CONNECTED
    scr: int = 0
    divisor: int = 12  # 9600 baud
    trigger: int = 1
    thre: bool = False  # the THR-empty interrupt is latched
    timeout: bool = False  # the character timeout has come
    rbr: int = 0  # the last character received without FIFOs
    rx: bytearray = field(default_factory=bytearray)  # FIFO, or RBR alone
    breaks: int = 0  # bit n: rx[n] stands for a break
    waiting: bytearray = field(default_factory=bytearray)  # host input behind a full FIFO
    timeout_at_ns: int = 0  # 0: not running


class Serial16550:
    """One UART; a Region of 8 byte-wide ports. `out(data)` takes what the guest sends.

    Without a `clock` the character timeout is immediate. Owned by the vCPU thread.
    """

    size = 8
    KIND, VERSION = "serial-16550", 1

    def __init__(self, irq: IrqLine, out: Callable[[bytes], object], clock: Clock | None = None) -> None:
        self._irq, self._out, self._clock = irq, out, clock
        self._alarm = None if clock is None else Alarm(clock, self._timed_out)
        self.on_room: Callable[[], None] | None = None
        """Called when input that had no room finds at least half of the queue empty again."""
        self.state = UartState()

    # The guest's side.

    def read(self, offset: int, _width: int) -> int:
        """One register; RBR, IIR, LSR and MSR have the datasheet's side effects."""
        state = self.state
        if offset == LSR:
            return self._read_lsr()
        if offset == RBR_THR:
            return state.divisor & 0xFF if state.lcr & LCR_DLAB else self._read_rbr()
        if offset == IIR_FCR:
            return self._read_iir()
        if offset == MSR:
            return self._read_msr()
        if offset == IER:
            return state.divisor >> 8 if state.lcr & LCR_DLAB else state.ier
        if offset == LCR:
            return state.lcr
        return state.mcr if offset == MCR else state.scr

    def write(self, offset: int, _width: int, value: int) -> None:
        """One register. LSR and MSR are for factory tests: writes are ignored."""
        state = self.state
        if offset == RBR_THR:
            if state.lcr & LCR_DLAB:
                state.divisor = state.divisor & 0xFF00 | value
            else:
                self._transmit(value)
        elif offset == IER:
            if state.lcr & LCR_DLAB:
                state.divisor = state.divisor & 0xFF | value << 8
            else:
                self._write_ier(value & 0x0F)
        elif offset == IIR_FCR:
            self._write_fcr(value)
        elif offset == LCR:
            state.lcr = value
        elif offset == MCR:
            self._write_mcr(value & 0x1F)
        elif offset == SCR:
            state.scr = value

    def register_name(self, offset: int, is_write: bool) -> str:
        """By offset and direction, with the divisor latch where DLAB selects it now."""
        if offset < 2 and self.state.lcr & LCR_DLAB:
            return "DLM" if offset else "DLL"
        if is_write:
            return ("THR", "IER", "FCR", "LCR", "MCR", "LSR", "MSR", "SCR")[offset]
        return ("RBR", "IER", "IIR", "LCR", "MCR", "LSR", "MSR", "SCR")[offset]

    # The host's side.

    def room(self) -> int:
        """How many bytes `receive` would take now without loss."""
        return WAITING_SIZE - len(self.state.waiting)

    def receive(self, data: bytes) -> None:
        """Bytes from the host, in order; those beyond `room()` are lost, and the guest sees an overrun.

        In loopback the receiver is cut off: bytes wait.
        """
        state = self.state
        taken = data[: self.room()]
        state.waiting += taken
        self._refill()
        if len(taken) < len(data):
            state.lsr |= LSR_OE
        self._update()

    def receive_break(self) -> None:
        """A break on the line: a zero character with LSR.BI. Lost in loopback."""
        if not self.state.mcr & MCR_LOOP:
            self._push(0, is_break=True)
            self._update()

    def set_modem_lines(
        self, *, dcd: bool = True, dsr: bool = True, cts: bool = True, ri: bool = False
    ) -> None:
        """What the other end drives; changes show as MSR deltas, in loopback once it ends."""
        state = self.state
        levels = cts << 4 | dsr << 5 | ri << 6 | dcd << 7
        deltas = _deltas(state.msr & 0xF0, levels)
        state.msr = levels | state.msr & MSR_DELTAS | deltas
        self._update()

    # State.

    def reset(self) -> None:
        """Power-on state; input that waited is lost."""
        crowded = len(self.state.waiting) > WAITING_SIZE // 2
        self.state = UartState()
        if self._alarm is not None:
            self._alarm.clear()
        self._update()
        if crowded and self.on_room is not None:
            self.on_room()

    def save(self) -> dict[str, object]:
        """The state as plain values."""
        return pack(self.KIND, self.VERSION, self.state)

    def load(self, saved: Mapping[str, object]) -> None:
        """Take a saved state; the interrupt line takes its level without an edge. Raises ConfigError."""
        state = unpack(self.KIND, self.VERSION, saved, UartState(), _LIMITS)
        state.trigger = TRIGGERS[state.fcr >> 6] if state.fcr & FCR_ENABLE else 1
        state.lsr = state.lsr & LSR_CAUSES | LSR_THRE | LSR_TEMT | bool(state.rx)
        state.mcr, state.ier, state.fcr = state.mcr & 0x1F, state.ier & 0x0F, state.fcr & FCR_KEPT
        self.state = state
        if self._alarm is not None:
            if state.timeout_at_ns:
                self._alarm.set(state.timeout_at_ns)
            else:
                self._alarm.clear()
        self._irq.restore(self._cause() != IIR_NONE)

    # Interrupts.

    def _cause(self) -> int:
        """The interrupt of highest priority, as IIR shows it."""
        state = self.state
        ier = state.ier
        if not ier:
            return IIR_NONE
        if ier & IER_ELSI and state.lsr & LSR_CAUSES:
            return IIR_LINE
        if ier & IER_ERBFI and state.rx:
            if len(state.rx) >= state.trigger:
                return IIR_RDA
            if state.timeout:
                return IIR_TIMEOUT
        if ier & IER_ETBEI and state.thre:
            return IIR_THRE
        if ier & IER_EDSSI and state.msr & MSR_DELTAS:
            return IIR_MODEM
        return IIR_NONE

    def _update(self) -> None:
        """The only place that moves the line, but for the pulse of `_transmit`."""
        self._irq.set(self._cause() != IIR_NONE)

    # Registers.

    def _transmit(self, value: int) -> None:
        """THR: empty again at once. The latch falls and rises, which an edge-triggered pin must see."""
        state = self.state
        if state.ier & IER_ETBEI:
            state.thre = False
            self._update()
        if state.mcr & MCR_LOOP:
            self._push(value)
            state.thre = True
            self._update()
            return
        self._out(_BYTES[value])
        state.thre = True
        if state.ier & IER_ETBEI:
            self._update()

    def _read_rbr(self) -> int:
        state = self.state
        rx = state.rx
        if not rx:  # an empty FIFO reads 0; RBR alone keeps its last character
            return 0 if state.fcr & FCR_ENABLE else state.rbr
        value = rx[0]
        del rx[0]
        state.timeout = False
        state.breaks >>= 1
        if state.waiting:
            self._refill()
        if not rx:
            state.lsr &= ~(LSR_DR | LSR_BI)
            self._stop_timeout()
        else:
            if state.breaks & 1:
                state.lsr |= LSR_BI
            self._start_timeout()
        self._update()
        return value

    def _read_lsr(self) -> int:
        state = self.state
        value = state.lsr
        if value & LSR_CAUSES:
            state.lsr = value & ~LSR_CAUSES
            self._update()
        if state.breaks and state.fcr & FCR_ENABLE:
            value |= LSR_FIFO_ERROR
        return value

    def _read_iir(self) -> int:
        """Reading IIR takes back the THR-empty interrupt if that is what it reports."""
        state = self.state
        cause = self._cause()
        if cause == IIR_THRE:
            state.thre = False
            self._update()
        return cause | IIR_FIFOS if state.fcr & FCR_ENABLE else cause

    def _read_msr(self) -> int:
        state = self.state
        value = state.msr
        if value & MSR_DELTAS:
            state.msr = value & ~MSR_DELTAS
            self._update()
        if state.mcr & MCR_LOOP:
            return _looped(state.mcr) | value & MSR_DELTAS
        return value

    def _write_ier(self, value: int) -> None:
        """Enabling the THR-empty interrupt raises it while THR is empty, which is always."""
        state = self.state
        if (state.ier ^ value) & IER_ETBEI:
            state.thre = bool(value & IER_ETBEI)
        state.ier = value
        self._update()

    def _write_fcr(self, value: int) -> None:
        """A change of the enable bit empties both FIFOs; the other bits need it set."""
        state = self.state
        if (value ^ state.fcr) & FCR_ENABLE:
            value |= FCR_CLEAR_RX | FCR_CLEAR_TX
        if value & FCR_CLEAR_RX:
            state.rx.clear()
            state.breaks = 0
            state.timeout = False
            state.lsr &= ~(LSR_DR | LSR_BI)
            self._stop_timeout()
        if value & FCR_CLEAR_TX:
            state.thre = True
        state.fcr = value & FCR_KEPT
        state.trigger = TRIGGERS[value >> 6] if value & FCR_ENABLE else 1
        self._refill()
        self._update()

    def _write_mcr(self, value: int) -> None:
        """In loopback the four outputs are the four modem inputs."""
        state = self.state
        old, state.mcr = state.mcr, value
        if old & value & MCR_LOOP:
            state.msr |= _deltas(_looped(old), _looped(value))
        elif old & MCR_LOOP:
            self._refill()
        self._update()

    # The receiver.

    def _refill(self) -> None:
        """Move waiting input into the FIFO (without FIFOs: into an empty RBR)."""
        state = self.state
        free = (FIFO_SIZE if state.fcr & FCR_ENABLE else 1) - len(state.rx)
        if free <= 0 or not state.waiting or state.mcr & MCR_LOOP:
            return
        before = len(state.waiting)
        state.rx += state.waiting[:free]
        del state.waiting[:free]
        if not state.fcr & FCR_ENABLE:
            state.rbr = state.rx[0]
        state.lsr |= LSR_DR
        self._start_timeout()
        half = WAITING_SIZE // 2
        if self.on_room is not None and len(state.waiting) <= half < before:
            self.on_room()

    def _push(self, value: int, *, is_break: bool = False) -> None:
        """One character on the line now: beyond a full FIFO it is lost, without FIFOs it replaces RBR."""
        state = self.state
        rx = state.rx
        if state.fcr & FCR_ENABLE:
            if len(rx) >= FIFO_SIZE:
                state.lsr |= LSR_OE
                return
        else:
            state.rbr = value
            if rx:
                state.lsr |= LSR_OE
                rx.clear()
                state.breaks = 0
        if is_break:
            state.breaks |= 1 << len(rx)
        rx.append(value)
        state.lsr |= LSR_DR
        if state.breaks & 1:
            state.lsr |= LSR_BI
        self._start_timeout()

    def _start_timeout(self) -> None:
        """The FIFO moved: its timeout begins anew, 4 characters of the present line format long."""
        state = self.state
        state.timeout = False
        if not state.fcr & FCR_ENABLE or len(state.rx) >= state.trigger:
            self._stop_timeout()
        elif self._alarm is None or self._clock is None:
            state.timeout = True
        else:
            state.timeout_at_ns = self._clock.now_ns() + TIMEOUT_CHARACTERS * self.character_ns()
            self._alarm.set(state.timeout_at_ns)

    def _stop_timeout(self) -> None:
        self.state.timeout_at_ns = 0
        if self._alarm is not None:
            self._alarm.clear()

    def _timed_out(self) -> None:
        state = self.state
        state.timeout_at_ns = 0
        state.timeout = bool(state.rx)
        self._update()

    def character_ns(self) -> int:
        """How long one character takes on the line, in ns, by divisor and LCR."""
        state = self.state
        bits = 1 + 5 + (state.lcr & 3) + (1 if state.lcr & 0x08 else 0) + (2 if state.lcr & 0x04 else 1)
        return bits * 1_000_000_000 * (state.divisor or 0x10000) // CRYSTAL_BAUD


def _looped(mcr: int) -> int:
    """MSR's levels in loopback: RTS to CTS, DTR to DSR, OUT1 to RI, OUT2 to DCD."""
    return (mcr & MCR_RTS) << 3 | (mcr & MCR_DTR) << 5 | (mcr & MCR_OUT1) << 4 | (mcr & MCR_OUT2) << 4


def _deltas(old: int, new: int) -> int:
    """MSR bits 3 to 0 for a change of levels; RI counts only when it falls (TERI)."""
    changed = (old ^ new) >> 4 & 0x0F
    if changed & MSR_TERI and new & MSR_RI:
        changed &= ~MSR_TERI
    return changed
