"""The local APIC, one CPU: registers, priorities, and message-signalled interrupts.

Source: Intel SDM volume 3 (325384), chapter 11 "APIC": 11.4 (registers), 11.5 (local vector table),
11.6 (interprocessor interrupts), 11.8 (priorities, EOI), 11.11 (messages), 11.12 (x2APIC: its MSRs are in
x2apic.py).

Registers belong to the vCPU thread. `send` may be called from any: from another it posts (`InterruptBlock`).
"""

from collections.abc import Callable
from functools import partial
from threading import get_ident

from emu.bus.interrupt_block import ENABLED, EXTERNAL, OUTSTANDING, X2APIC, XAPIC, InterruptBlock
from emu.bus.interrupt_block import IRR as IRR_WORDS
from emu.bus.interrupt_block import ISR as ISR_WORDS
from emu.bus.interrupt_block import PPR as PPR_WORD
from emu.bus.interrupt_block import TMR as TMR_WORDS
from emu.bus.interrupt_block import TPR as TPR_WORD
from emu.bus.types import AccessError, CpuPins, Fault, InterruptController
from emu.clock import Clock
from emu.devices.lapic_timer import MODE_MASK, MODE_SHIFT, ApicTimer, TimeStampCounter

SIZE, DEFAULT_BASE = 4096, 0xFEE00000
VERSION = 0x00050014  # six LVT entries, an integrated APIC

# Register numbers: offset / 16
ID, VERSION_REG, TPR, APR, PPR, EOI, LDR, DFR, SVR = 0x02, 0x03, 0x08, 0x09, 0x0A, 0x0B, 0x0D, 0x0E, 0x0F
ISR, TMR, IRR, ESR, ICR_LOW, ICR_HIGH = 0x10, 0x18, 0x20, 0x28, 0x30, 0x31
LVT_TIMER, LVT_THERMAL, LVT_PERF, LVT_LINT0, LVT_LINT1, LVT_ERROR = 0x32, 0x33, 0x34, 0x35, 0x36, 0x37
TIMER_INITIAL, TIMER_CURRENT, TIMER_DIVIDE = 0x38, 0x39, 0x3E

SVR_ENABLED, SVR_BITS = 1 << 8, 0x3FF
LVT_MASKED, LVT_LEVEL = 1 << 16, 1 << 15
LVT_BITS = {  # what can be written
    LVT_TIMER: 0x700FF,
    LVT_THERMAL: 0x107FF,
    LVT_PERF: 0x107FF,
    LVT_LINT0: 0x1A7FF,
    LVT_LINT1: 0x1A7FF,
    LVT_ERROR: 0x100FF,
}
FIXED, LOWEST_PRIORITY, NMI, EXTINT = 0, 1, 4, 7  # delivery mode, bits 10:8 everywhere
TRIGGER_LEVEL = 1 << 15  # in ICR and message data
ICR_BITS, ICR_LOGICAL = 0x000CCFFF, 1 << 11
TO_DESTINATION, TO_SELF, TO_ALL = 0, 1, 2  # ICR shorthand; 3 leaves self out
ESR_SEND_ILLEGAL, ESR_RECEIVE_ILLEGAL, ESR_ILLEGAL_REGISTER = 1 << 5, 1 << 6, 1 << 7
FIRST_VECTOR = 16  # 0 to 15 are illegal
DFR_FLAT = 0xF

BASE_BSP, BASE_EXTD, BASE_ENABLE = 1 << 8, 1 << 10, 1 << 11  # IA32_APIC_BASE
BASE_ADDRESS = (1 << 40) - SIZE

NAMES = {
    ID: "ID", VERSION_REG: "VERSION", TPR: "TPR", APR: "APR", PPR: "PPR", EOI: "EOI", LDR: "LDR", DFR: "DFR",
    SVR: "SVR", ESR: "ESR", ICR_LOW: "ICR_LOW", ICR_HIGH: "ICR_HIGH", LVT_TIMER: "LVT_TIMER",
    LVT_THERMAL: "LVT_THERMAL", LVT_PERF: "LVT_PERF", LVT_LINT0: "LVT_LINT0", LVT_LINT1: "LVT_LINT1",
    LVT_ERROR: "LVT_ERROR", TIMER_INITIAL: "TIMER_INITIAL", TIMER_CURRENT: "TIMER_CURRENT",
    TIMER_DIVIDE: "TIMER_DIVIDE",
}  # fmt: skip


class Lapic:
    """One CPU's local APIC: a `Region` of 4096 bytes, an `MsiTarget` and the CPU's `InterruptController`.

    `ext_int` is the 8259 pair behind LINT0; its INTR drives `ext_int_changed`. `on_eoi(vector)` hears the
    end of each level-triggered interrupt, `on_window(base)` where the register window is from now on, None
    for nowhere. A spurious interrupt never arises, as the INTA cycle looks anew.
    """

    __slots__ = (
        "_base", "_cpu", "_dfr", "_errors", "_esr", "_ext_int", "_ext_requested", "_icr_high", "_icr_low",
        "_id", "_ldr", "_lint0_level", "_lvt", "_nmi_requested", "_own_address", "_owner", "_pic_accepted",
        "_posted", "_readers", "_reset_id", "_svr", "_timer", "_tpr", "_words", "_writers", "block", "on_eoi",
        "on_window", "size",
    )  # fmt: skip
    _nmi_requested: bool  # by another thread
    _ext_requested: bool  # by a message in ExtINT mode
    _pic_accepted: bool  # INTR of the 8259 reaches the CPU

    def __init__(
        self,
        clock: Clock,
        cpu: CpuPins,
        ext_int: InterruptController,
        timer_hz: int = 1_000_000_000,
        apic_id: int = 0,
    ) -> None:
        self._cpu, self._ext_int, self._reset_id = cpu, ext_int, apic_id
        self.on_eoi: Callable[[int], None] = _ignore
        self.on_window: Callable[[int | None], None] = _ignore_window
        self.size = SIZE
        self.block = InterruptBlock()
        self._words, self._posted = self.block.words, self.block.posted
        self._owner = get_ident()
        self._timer = ApicTimer(clock, timer_hz, self._timer_fires)
        self._lint0_level = False
        self._base = DEFAULT_BASE | BASE_ENABLE | BASE_BSP
        self._readers: list[Callable[[], int]] = [self._no_register] * 256
        self._writers: list[Callable[[int], None]] = [self._no_register_write] * 256
        self._wire_registers()
        self._reset_registers()

    # What the board and the CPU use

    def bind_thread(self) -> None:
        """Say that the calling thread is the vCPU's; `send` from any other pokes from outside."""
        self._owner = get_ident()

    def reset(self) -> None:
        """Power-up state: everything masked and software-disabled, globally enabled (11.4.7)."""
        self._set_base(DEFAULT_BASE | BASE_ENABLE | BASE_BSP)
        self._reset_registers()

    def virtual_wire(self) -> None:
        """What firmware leaves to a kernel: enabled, LINT0 passes the 8259's INTR, LINT1 is NMI."""
        self._write_svr(0x1FF)
        self._write_lvt(LVT_LINT0, EXTINT << 8 | LVT_LEVEL)
        self._write_lvt(LVT_LINT1, NMI << 8 | LVT_LEVEL)

    @property
    def apic_base(self) -> int:
        """IA32_APIC_BASE (MSR 0x1B)."""
        return self._base

    def write_apic_base(self, value: int) -> bool:
        """Move, enable or disable; False (#GP) for reserved bits and steps that 11.12.5 does not allow."""
        if value & ~(BASE_ADDRESS | BASE_BSP | BASE_EXTD | BASE_ENABLE):
            return False
        old, mode = self._base & (BASE_EXTD | BASE_ENABLE), value & (BASE_EXTD | BASE_ENABLE)
        if mode == BASE_EXTD or (old & BASE_EXTD and mode == BASE_ENABLE) or (not old and mode & BASE_EXTD):
            return False
        self._set_base(value)
        if old and not mode:  # it comes back as after reset (11.4.3)
            self._reset_registers()
        self._icr_high &= 0xFFFFFFFF if self.x2apic else 0xFF000000
        self._wires_changed()
        return True

    def _set_base(self, value: int) -> None:
        before, self._base = self.window, value
        if self.window != before:
            self.on_window(self.window)

    @property
    def window(self) -> int | None:
        """Where the registers are in memory; None while the APIC is off or in x2APIC mode (11.12.2)."""
        on = self._base & (BASE_EXTD | BASE_ENABLE) == BASE_ENABLE
        return self._base & BASE_ADDRESS if on else None

    @property
    def x2apic(self) -> bool:
        """Registers are MSRs."""
        return bool(self._base & BASE_EXTD)

    # TSC-deadline mode, for the CPU's MSRs

    def connect_tsc(self, tsc: TimeStampCounter) -> None:
        """The counter that deadlines are of, and at whose rate the timer counts."""
        self._timer.connect(tsc)

    def tsc_changed(self) -> None:
        """The counter was written: a deadline is at another time."""
        self._timer.tsc_changed()

    @property
    def tsc_deadline(self) -> int:
        """IA32_TSC_DEADLINE."""
        return self._timer.tsc_deadline

    def write_tsc_deadline(self, value: int) -> bool:
        """Arm the timer; every value is good."""
        self._timer.write_tsc_deadline(value)
        return True

    @property
    def task_priority(self) -> int:
        """TPR; CR8 is its upper four bits."""
        return self._tpr

    @task_priority.setter
    def task_priority(self, value: int) -> None:
        self._write_tpr(value & 0xFF)

    def pending(self) -> bool:
        """True where `acknowledge` would return a vector."""
        return (
            self.block.wanted()
            or ((self._pic_accepted or self._ext_requested) and self._ext_int.pending())
            or self._nmi_requested
        )

    def acknowledge(self) -> int:
        """INTA: the highest deliverable vector goes in service; else the 8259's where it passes; else -1.

        The CPU's native code does the first part by itself, where it is all there is to do.
        """
        if self._nmi_requested:
            self._nmi_requested = False
            self._cpu.nmi()
        vector = self.block.deliverable()
        if vector >= 0:
            self.block.take(vector)
            if self._words[EXTERNAL]:
                self._cpu.poke()  # INTR is still high
            return vector
        if self._ext_requested or (self._pic_accepted and self._ext_int.pending()):
            self._ext_requested = False
            return self._ext_int.acknowledge()
        return -1

    def send(self, address: int, data: int) -> None:
        """Take a message (11.11); from any thread. Others' and malformed messages are dropped."""
        if address == self._own_address and FIRST_VECTOR <= data <= 0xFF:  # fixed, edge, to this APIC
            self._posted[data] = 1
            self._words[OUTSTANDING] = 1
            if get_ident() == self._owner:
                self._cpu.poke()
            else:
                self._cpu.poke_from_outside()
            return
        if address >> 20 != 0xFEE or not self._base & BASE_ENABLE:
            return
        if self._is_for_us(address >> 12 & 0xFF, bool(address & 0x4)):
            self._deliver(data >> 8 & 7, data & 0xFF, bool(data & TRIGGER_LEVEL))

    def ext_int_changed(self, level: bool) -> None:
        """The 8259's INTR, wired to LINT0; vCPU thread."""
        rose = level and not self._lint0_level
        self._lint0_level = level
        self._words[EXTERNAL] = level and self._pic_accepted
        if not level:
            return
        if self._pic_accepted:
            self._cpu.poke()
            return
        lvt = self._lvt[LVT_LINT0]
        if rose and not lvt & LVT_MASKED:
            self._deliver(lvt >> 8 & 7, lvt & 0xFF, bool(lvt & LVT_LEVEL))

    # The register window

    def read(self, offset: int, width: int) -> int:
        """Read a register; parts of its 32 bits too. Raises AccessError between registers."""
        if width != 4 or offset & 15:
            if (offset & 15) + width > 4:
                raise AccessError(Fault.WIDTH)
            return self._readers[offset >> 4]() >> 8 * (offset & 3) & (1 << 8 * width) - 1
        return self._readers[offset >> 4]()

    def write(self, offset: int, width: int, value: int) -> None:
        """Write a register; 32 bits at its own offset only. Raises AccessError else."""
        if width != 4 or offset & 15:
            raise AccessError(Fault.WIDTH)
        self._writers[offset >> 4](value & 0xFFFFFFFF)

    def register_name(self, offset: int, is_write: bool) -> str:  # noqa: ARG002 - same both ways
        """The SDM's name, in the form used here."""
        number = offset >> 4
        for first, name in ((ISR, "ISR"), (TMR, "TMR"), (IRR, "IRR")):
            if first <= number < first + 8:
                return f"{name}{number - first}"
        return NAMES.get(number, "reserved")

    # The registers as MSRs (x2apic.py)

    def read_register(self, number: int) -> int:
        """One register of x2APIC mode: the IDs have another form there (11.12.9, 11.12.10)."""
        if number == ID:
            return self._id
        if number == LDR:
            return self._id >> 4 << 16 | 1 << (self._id & 0xF)
        return self._readers[number]()

    def write_register(self, number: int, value: int) -> None:
        """The same; reserved bits are checked."""
        self._writers[number](value)

    def read_icr(self) -> int:
        """ICR in one piece."""
        return self._icr_high << 32 | self._icr_low

    def send_ipi(self, icr: int) -> None:
        """ICR written in one piece, or SELF IPI, which leaves ICR as it is."""
        self._icr_high = icr >> 32
        self._write_icr_low(icr & 0xFFFFFFFF)

    def _wire_registers(self) -> None:
        readers, writers = self._readers, self._writers
        readers[ID], writers[ID] = (lambda: self._id << 24), self._write_id
        readers[VERSION_REG] = lambda: VERSION
        readers[TPR], writers[TPR] = (lambda: self._tpr), self._write_tpr
        readers[APR] = self._arbitration_priority
        readers[PPR] = lambda: self._words[PPR_WORD]
        readers[EOI], writers[EOI] = (lambda: 0), self._write_eoi
        readers[LDR], writers[LDR] = (lambda: self._ldr << 24), self._write_ldr
        readers[DFR], writers[DFR] = (lambda: self._dfr << 28 | 0x0FFFFFFF), self._write_dfr
        readers[SVR], writers[SVR] = (lambda: self._svr), self._write_svr
        for word in range(8):
            for first, block in ((ISR, ISR_WORDS), (TMR, TMR_WORDS), (IRR, IRR_WORDS)):
                readers[first + word] = partial(self._bits, block, word)
        readers[ESR], writers[ESR] = (lambda: self._esr), self._write_esr
        readers[ICR_LOW], writers[ICR_LOW] = (lambda: self._icr_low), self._write_icr_low
        readers[ICR_HIGH], writers[ICR_HIGH] = (lambda: self._icr_high), self._write_icr_high
        for entry in LVT_BITS:
            readers[entry], writers[entry] = partial(self._read_lvt, entry), partial(self._write_lvt, entry)
        timer = self._timer
        readers[TIMER_INITIAL], writers[TIMER_INITIAL] = (lambda: timer.initial), timer.write_initial
        readers[TIMER_CURRENT] = timer.current
        readers[TIMER_DIVIDE], writers[TIMER_DIVIDE] = (lambda: timer.divide), timer.write_divide

    def _reset_registers(self) -> None:
        self.block.reset()
        self._tpr = 0
        self._id, self._ldr, self._dfr, self._svr = self._reset_id, 0, DFR_FLAT, 0xFF
        self._lvt = dict.fromkeys(LVT_BITS, LVT_MASKED)
        self._esr = self._errors = self._icr_low = self._icr_high = 0
        self._ext_requested = self._nmi_requested = False
        self._timer.reset()
        self._wires_changed()

    # Priorities

    def _evaluate(self) -> None:
        """PPR from TPR and ISR (11.8.3.1), and an INTA cycle where that makes something deliverable."""
        ppr, in_service = self._tpr, self.block.highest(ISR_WORDS)
        if in_service >> 4 > ppr >> 4:
            ppr = in_service & 0xF0
        self._words[PPR_WORD] = ppr
        if self.block.wanted():
            self._cpu.poke()

    def _arbitration_priority(self) -> int:
        """APR: as PPR, but with what is requested as well."""
        self.block.fold()
        highest = max(self.block.highest(IRR_WORDS), self.block.highest(ISR_WORDS))
        return self._tpr if self._tpr >> 4 >= highest >> 4 else highest & 0xF0

    def _write_tpr(self, value: int) -> None:
        self._tpr = self._words[TPR_WORD] = value & 0xFF
        self._evaluate()

    def _write_eoi(self, _value: int) -> None:
        block = self.block
        vector = block.highest(ISR_WORDS)
        if vector < 0:
            return
        block.clear(ISR_WORDS, vector)
        if block.test(TMR_WORDS, vector):
            self.on_eoi(vector)
        self._evaluate()

    def _bits(self, register: int, number: int) -> int:
        """32 bits of IRR, ISR or TMR."""
        self.block.fold()
        return self._words[register + (number >> 1)] >> 32 * (number & 1) & 0xFFFFFFFF

    # Delivery

    def _is_for_us(self, destination: int, logical: bool) -> bool:
        """Physical ID or logical destination, flat or cluster (11.6.2); in x2APIC mode 11.12.10."""
        if destination in (0xFF, 0xFFFFFFFF):
            return True
        if not logical:
            return destination == self._id
        if self._base & BASE_EXTD:
            return destination >> 16 == self._id >> 4 and bool(destination >> (self._id & 0xF) & 1)
        if self._dfr == DFR_FLAT:
            return destination & self._ldr != 0
        return destination >> 4 == self._ldr >> 4 and destination & self._ldr & 0xF != 0

    def _deliver(self, mode: int, vector: int, level: bool) -> None:
        """Take one interrupt, from any thread. SMI, INIT and start-up change nothing here."""
        if mode in (FIXED, LOWEST_PRIORITY):
            self._accept(vector, level)
        elif mode == NMI:
            if get_ident() == self._owner:
                self._cpu.nmi()
            else:  # raised at the CPU's next INTA cycle
                self._nmi_requested = True
                self._cpu.poke_from_outside()
        elif mode == EXTINT:
            self._ext_requested = True
            self._poke()

    def _accept(self, vector: int, level: bool) -> None:
        """One interrupt for the CPU. A level-triggered one from another thread counts as an edge."""
        if vector < FIRST_VECTOR:
            self._raise_error(ESR_RECEIVE_ILLEGAL)
        elif self._svr & SVR_ENABLED:
            if level and get_ident() == self._owner:
                self.block.fold()
                self.block.set(IRR_WORDS, vector)
                self.block.set(TMR_WORDS, vector)
            else:
                self.block.post(vector)
            self._poke()

    def _poke(self) -> None:
        if get_ident() == self._owner:
            self._cpu.poke()
        else:
            self._cpu.poke_from_outside()

    def _fire(self, entry: int) -> None:
        """A local source's event, by its LVT entry."""
        lvt = self._lvt[entry]
        if not lvt & LVT_MASKED:
            self._accept(lvt & 0xFF, False)

    def _raise_error(self, bit: int) -> None:
        """Note an error (11.5.3); only a new one interrupts, so an illegal error vector ends here."""
        if not self._errors & bit:
            self._errors |= bit
            self._fire(LVT_ERROR)

    def _no_register(self) -> int:
        self._raise_error(ESR_ILLEGAL_REGISTER)
        return 0

    def _no_register_write(self, _value: int) -> None:
        self._raise_error(ESR_ILLEGAL_REGISTER)

    # Plain registers

    def _write_id(self, value: int) -> None:
        self._id = value >> 24
        self._find_own_address()

    def _find_own_address(self) -> None:
        """Where a plain message to this APIC goes; nowhere while it is off."""
        on = self._base & BASE_ENABLE and self._svr & SVR_ENABLED
        self._own_address = DEFAULT_BASE | self._id << 12 if on else -1
        self._words[ENABLED] = bool(self._base & BASE_ENABLE)
        self._words[XAPIC] = self.window == DEFAULT_BASE
        self._words[X2APIC] = self.x2apic

    def _write_ldr(self, value: int) -> None:
        self._ldr = value >> 24

    def _write_dfr(self, value: int) -> None:
        self._dfr = value >> 28

    def _write_svr(self, value: int) -> None:
        self._svr = value & SVR_BITS
        if not value & SVR_ENABLED:  # every entry is masked and stays so (11.4.7.2)
            for entry in self._lvt:
                self._lvt[entry] |= LVT_MASKED
        self._wires_changed()

    def _write_esr(self, _value: int) -> None:
        """Show what was noted since the last write."""
        self._esr, self._errors = self._errors, 0

    def _write_icr_high(self, value: int) -> None:
        self._icr_high = value & 0xFF000000

    def _write_icr_low(self, value: int) -> None:
        """Send an interrupt; this CPU is the only one to send it to (11.6.1)."""
        self._icr_low = value & ICR_BITS
        mode, vector, shorthand = value >> 8 & 7, value & 0xFF, value >> 18 & 3
        if mode in (FIXED, LOWEST_PRIORITY) and vector < FIRST_VECTOR:
            self._raise_error(ESR_SEND_ILLEGAL)
            return
        if shorthand == TO_DESTINATION:
            to = self._icr_high if self._base & BASE_EXTD else self._icr_high >> 24
            to_us = self._is_for_us(to, bool(value & ICR_LOGICAL))
        else:
            to_us = shorthand in (TO_SELF, TO_ALL)
        if to_us:
            self._deliver(mode, vector, level=False)

    def _read_lvt(self, entry: int) -> int:
        return self._lvt[entry]

    def _write_lvt(self, entry: int, value: int) -> None:
        value &= LVT_BITS[entry]
        if not self._svr & SVR_ENABLED:
            value |= LVT_MASKED
        self._lvt[entry] = value
        if entry == LVT_LINT0:
            self._wires_changed()
        elif entry == LVT_TIMER:
            self._timer.set_mode(value >> MODE_SHIFT & MODE_MASK)

    def _wires_changed(self) -> None:
        """Whether the 8259's INTR reaches the CPU: always while the APIC is globally disabled."""
        lvt = self._lvt[LVT_LINT0]
        through = not lvt & LVT_MASKED and lvt >> 8 & 7 == EXTINT
        self._pic_accepted = through or not self._base & BASE_ENABLE
        self._find_own_address()
        self._words[EXTERNAL] = self._pic_accepted and self._lint0_level
        if self._words[EXTERNAL]:
            self._cpu.poke()

    def _timer_fires(self) -> None:
        self._fire(LVT_TIMER)


def _ignore(_vector: int) -> None:
    """Nobody listens."""


def _ignore_window(_base: int | None) -> None:
    """No board moves it."""
