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
from emu.devices import lapic_spec as spec
from emu.devices.lapic_address import AT_RESET, ApicAddress
from emu.devices.lapic_spec import FIRST_VECTOR
from emu.devices.lapic_timer import MODE_MASK, MODE_SHIFT, ApicTimer, TimeStampCounter


class Lapic:
    """One CPU's local APIC: a `Region` of 4096 bytes, an `MsiTarget` and the CPU's `InterruptController`.

    `ext_int` is the 8259 pair behind LINT0; its INTR drives `ext_int_changed`. `on_eoi(vector)` hears the
    end of each level-triggered interrupt, `on_window(base)` where the register window is from now on, None
    for nowhere. A spurious interrupt never arises, as the INTA cycle looks anew.
    """

    __slots__ = (
        "_address", "_cpu", "_errors", "_esr", "_ext_int", "_ext_requested", "_icr_high", "_icr_low",
        "_lint0_level", "_lvt", "_nmi_requested", "_own_address", "_owner", "_pic_accepted", "_posted",
        "_readers", "_svr", "_timer", "_tpr", "_words", "_writers", "block", "on_eoi", "on_window", "size",
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
        self._cpu, self._ext_int = cpu, ext_int
        self._address = ApicAddress(apic_id)
        self.on_eoi: Callable[[int], None] = _ignore
        self.on_window: Callable[[int | None], None] = _ignore_window
        self.size = spec.SIZE
        self.block = InterruptBlock()
        self._words, self._posted = self.block.words, self.block.posted
        self._owner = get_ident()
        self._timer = ApicTimer(clock, timer_hz, self._timer_fires)
        self._lint0_level = False
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
        self._set_base(AT_RESET)
        self._reset_registers()

    def virtual_wire(self) -> None:
        """What firmware leaves to a kernel: enabled, LINT0 passes the 8259's INTR, LINT1 is NMI."""
        self._write_svr(0x1FF)
        self._write_lvt(spec.LVT_LINT0, spec.EXTINT << 8 | spec.LVT_LEVEL)
        self._write_lvt(spec.LVT_LINT1, spec.NMI << 8 | spec.LVT_LEVEL)

    @property
    def apic_base(self) -> int:
        """IA32_APIC_BASE (MSR 0x1B)."""
        return self._address.base

    def write_apic_base(self, value: int) -> bool:
        """Move, enable or disable; False (#GP) for what cannot be."""
        if not self._address.may_become(value):
            return False
        was_on = self._address.enabled
        self._set_base(value)
        if was_on and not self._address.enabled:  # it comes back as after reset (11.4.3)
            self._reset_registers()
        self._icr_high &= 0xFFFFFFFF if self.x2apic else 0xFF000000
        self._wires_changed()
        return True

    def _set_base(self, value: int) -> None:
        before = self._address.window
        self._address.become(value)
        if self._address.window != before:
            self.on_window(self._address.window)

    @property
    def x2apic(self) -> bool:
        """Registers are MSRs."""
        return self._address.x2apic

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
        if address >> 20 != 0xFEE or not self._address.enabled:
            return
        if self._address.is_named_by(address >> 12 & 0xFF, bool(address & 0x4)):
            self._deliver(data >> 8 & 7, data & 0xFF, bool(data & spec.TRIGGER_LEVEL))

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
        lvt = self._lvt[spec.LVT_LINT0]
        if rose and not lvt & spec.LVT_MASKED:
            self._deliver(lvt >> 8 & 7, lvt & 0xFF, bool(lvt & spec.LVT_LEVEL))

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
        return spec.NAMES.get(offset >> 4, "reserved")

    # The registers as MSRs (x2apic.py)

    def read_register(self, number: int) -> int:
        """One register of x2APIC mode: the IDs have another form there (11.12.9, 11.12.10)."""
        if number == spec.ID:
            return self._address.id
        if number == spec.LDR:
            return self._address.x2apic_logical_id
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
        readers, writers, address = self._readers, self._writers, self._address
        readers[spec.ID], writers[spec.ID] = (lambda: address.id << 24), self._write_id
        readers[spec.VERSION_REG] = lambda: spec.VERSION
        readers[spec.TPR], writers[spec.TPR] = (lambda: self._tpr), self._write_tpr
        readers[spec.APR] = self._arbitration_priority
        readers[spec.PPR] = lambda: self._words[PPR_WORD]
        readers[spec.EOI], writers[spec.EOI] = (lambda: 0), self._write_eoi
        readers[spec.LDR], writers[spec.LDR] = (lambda: address.ldr << 24), self._write_ldr
        readers[spec.DFR], writers[spec.DFR] = (lambda: address.dfr << 28 | 0x0FFFFFFF), self._write_dfr
        readers[spec.SVR], writers[spec.SVR] = (lambda: self._svr), self._write_svr
        for word in range(8):
            for first, block in ((spec.ISR, ISR_WORDS), (spec.TMR, TMR_WORDS), (spec.IRR, IRR_WORDS)):
                readers[first + word] = partial(self._bits, block, word)
        readers[spec.ESR], writers[spec.ESR] = (lambda: self._esr), self._write_esr
        readers[spec.ICR_LOW], writers[spec.ICR_LOW] = (lambda: self._icr_low), self._write_icr_low
        readers[spec.ICR_HIGH], writers[spec.ICR_HIGH] = (lambda: self._icr_high), self._write_icr_high
        for entry in spec.LVT_BITS:
            readers[entry], writers[entry] = partial(self._read_lvt, entry), partial(self._write_lvt, entry)
        timer = self._timer
        readers[spec.TIMER_INITIAL], writers[spec.TIMER_INITIAL] = (
            (lambda: timer.initial),
            timer.write_initial,
        )
        readers[spec.TIMER_CURRENT] = timer.current
        readers[spec.TIMER_DIVIDE], writers[spec.TIMER_DIVIDE] = (lambda: timer.divide), timer.write_divide

    def _reset_registers(self) -> None:
        self.block.reset()
        self._address.reset_ids()
        self._tpr, self._svr = 0, 0xFF
        self._lvt = dict.fromkeys(spec.LVT_BITS, spec.LVT_MASKED)
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

    def _deliver(self, mode: int, vector: int, level: bool) -> None:
        """Take one interrupt, from any thread. SMI, INIT and start-up change nothing here."""
        if mode in (spec.FIXED, spec.LOWEST_PRIORITY):
            self._accept(vector, level)
        elif mode == spec.NMI:
            if get_ident() == self._owner:
                self._cpu.nmi()
            else:  # raised at the CPU's next INTA cycle
                self._nmi_requested = True
                self._cpu.poke_from_outside()
        elif mode == spec.EXTINT:
            self._ext_requested = True
            self._poke()

    def _accept(self, vector: int, level: bool) -> None:
        """One interrupt for the CPU. A level-triggered one from another thread counts as an edge."""
        if vector < FIRST_VECTOR:
            self._raise_error(spec.ESR_RECEIVE_ILLEGAL)
        elif self._svr & spec.SVR_ENABLED:
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
        if not lvt & spec.LVT_MASKED:
            self._accept(lvt & 0xFF, False)

    def _raise_error(self, bit: int) -> None:
        """Note an error (11.5.3); only a new one interrupts, so an illegal error vector ends here."""
        if not self._errors & bit:
            self._errors |= bit
            self._fire(spec.LVT_ERROR)

    def _no_register(self) -> int:
        self._raise_error(spec.ESR_ILLEGAL_REGISTER)
        return 0

    def _no_register_write(self, _value: int) -> None:
        self._raise_error(spec.ESR_ILLEGAL_REGISTER)

    # Plain registers

    def _write_id(self, value: int) -> None:
        self._address.id = value >> 24
        self._find_own_address()

    def _find_own_address(self) -> None:
        """Where a plain message to this APIC goes; nowhere while it is off."""
        address = self._address
        on = address.enabled and self._svr & spec.SVR_ENABLED
        self._own_address = spec.DEFAULT_BASE | address.id << 12 if on else -1
        self._words[ENABLED] = address.enabled
        self._words[XAPIC] = address.window == spec.DEFAULT_BASE
        self._words[X2APIC] = address.x2apic

    def _write_ldr(self, value: int) -> None:
        self._address.ldr = value >> 24

    def _write_dfr(self, value: int) -> None:
        self._address.dfr = value >> 28

    def _write_svr(self, value: int) -> None:
        self._svr = value & spec.SVR_BITS
        if not value & spec.SVR_ENABLED:  # every entry is masked and stays so (11.4.7.2)
            for entry in self._lvt:
                self._lvt[entry] |= spec.LVT_MASKED
        self._wires_changed()

    def _write_esr(self, _value: int) -> None:
        """Show what was noted since the last write."""
        self._esr, self._errors = self._errors, 0

    def _write_icr_high(self, value: int) -> None:
        self._icr_high = value & 0xFF000000

    def _write_icr_low(self, value: int) -> None:
        """Send an interrupt; this CPU is the only one to send it to (11.6.1)."""
        self._icr_low = value & spec.ICR_BITS
        mode, vector, shorthand = value >> 8 & 7, value & 0xFF, value >> 18 & 3
        if mode in (spec.FIXED, spec.LOWEST_PRIORITY) and vector < FIRST_VECTOR:
            self._raise_error(spec.ESR_SEND_ILLEGAL)
            return
        if shorthand == spec.TO_DESTINATION:
            to = self._icr_high if self.x2apic else self._icr_high >> 24
            to_us = self._address.is_named_by(to, bool(value & spec.ICR_LOGICAL))
        else:
            to_us = shorthand in (spec.TO_SELF, spec.TO_ALL)
        if to_us:
            self._deliver(mode, vector, level=False)

    def _read_lvt(self, entry: int) -> int:
        return self._lvt[entry]

    def _write_lvt(self, entry: int, value: int) -> None:
        value &= spec.LVT_BITS[entry]
        if not self._svr & spec.SVR_ENABLED:
            value |= spec.LVT_MASKED
        self._lvt[entry] = value
        if entry == spec.LVT_LINT0:
            self._wires_changed()
        elif entry == spec.LVT_TIMER:
            self._timer.set_mode(value >> MODE_SHIFT & MODE_MASK)

    def _wires_changed(self) -> None:
        """Whether the 8259's INTR reaches the CPU: always while the APIC is globally disabled."""
        lvt = self._lvt[spec.LVT_LINT0]
        through = not lvt & spec.LVT_MASKED and lvt >> 8 & 7 == spec.EXTINT
        self._pic_accepted = through or not self._address.enabled
        self._find_own_address()
        self._words[EXTERNAL] = self._pic_accepted and self._lint0_level
        if self._words[EXTERNAL]:
            self._cpu.poke()

    def _timer_fires(self) -> None:
        self._fire(spec.LVT_TIMER)


def _ignore(_vector: int) -> None:
    """Nobody listens."""


def _ignore_window(_base: int | None) -> None:
    """No board moves it."""
