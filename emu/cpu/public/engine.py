"""The engine that needs nothing but Unicorn's public API: slower, for where the fast one does not work.

The guest runs in slices of `count=` instructions; between them this engine looks for stops, deadlines and
interrupts. Exceptions and interrupts are delivered in Python (traps.py, events.py). HLT, MSRs and CR8 come as
SVM intercepts, switched on in a saved context (context.py).

A stop in the middle of a slice would repeat an instruction that has stored already, so no other thread ever
stops a slice. A device may (an interrupt, DMA into code): where the instruction then begins anew, its device
accesses are answered from a record (replay.py), and it ends before anything else happens.

The engine's flaw with pages of code (native/load.py) is cured by a hook that is never called, at the price of
slow stores. What is not cured: an exception frame pushed onto a page of code does not drop that code; each
DMA drops all translated code, and so does each interrupt of a device that another process serves: code that
such a device wrote is seen by no guest that only polls; an STI .. CLI shorter than a slice may be missed once
something has been pending for STEPS instructions with interrupts off; task gates are answered like bad gates;
no deterministic mode.
"""

import time
from collections.abc import Callable, Sequence
from typing import Final

from emu.cpu import library as uc
from emu.cpu.control_block import INTERCEPT_HLT, INTERCEPT_MSR, ControlBlock
from emu.cpu.engine import EngineHooks, MmioArea, RamBlock
from emu.cpu.layout import EFLAGS_IF, HF2_NMI, HF_INHIBIT
from emu.cpu.library import (
    IN_CB,
    INTR_CB,
    INVALID_CB,
    LIB_HELD,
    OUT_CB,
    PLAIN_CB,
    READ_CB,
    SKIP_CB,
    STORE_CB,
    WRITE_CB,
    P,
)
from emu.cpu.public.accesses import Ports, make_area_read, make_area_write
from emu.cpu.public.bells import Bells
from emu.cpu.public.context import Context
from emu.cpu.public.deadline import PolledDeadline, PublicSignals
from emu.cpu.public.events import GP, NMI, UD, Events
from emu.cpu.public.paging import Paging
from emu.cpu.public.replay import Replay
from emu.cpu.public.slices import Slices
from emu.cpu.public.traps import Traps
from emu.cpu.start import PROBE_RAX, enter, probe
from emu.cpu.state import StartState
from emu.errors import EngineError

SLICE: Final = 2000
"""Guest instructions between two looks: about 20 us."""
STEPS: Final = 4000
"""Single steps while something is pending and the guest has interrupts off; then slices again."""


class PublicEngine:
    """One Unicorn CPU; see `emu.cpu.engine.Engine` and, for its limits, the text of this module."""

    name = "public"

    def __init__(self, ram: Sequence[RamBlock], hooks: EngineHooks, wake_fd: int) -> None:
        self._handle = uc.open_x86()
        self._hooks = hooks
        self.signals = PublicSignals()
        self.interrupts = 0
        self._deadline = PolledDeadline(self.signals, wake_fd)
        self._callbacks = uc.Callbacks()
        uc.map_ram(self._handle, ram)
        uc.use_exits(self._handle)
        self._block = ControlBlock(self._handle)
        self.context = Context(self._handle)
        self._paging = Paging(ram, self.context.state)
        self._events = Events(self.context, self._paging)
        self._traps = Traps(self.context, self._paging, self._events, hooks, self._halt)
        self._slices = Slices(self._handle, self.context)
        self._replay = Replay()
        self._ports = Ports(self.context, self._paging, self._events, self._slices, self._replay)
        self._bells = Bells()
        self._watched = 0
        self._leave = self._flush = self._requested = self._nmi = self._halted = False
        self._hook_all()
        for area in hooks.areas:
            self._map_area(area)
        self.context.check()
        self._block.intercept(self.context.state, INTERCEPT_HLT | INTERCEPT_MSR)
        self.context.store()
        self._self_check(ram[0].address)

    # ---- set-up ------------------------------------------------------------------------------------

    def _hook_all(self) -> None:
        handle, traps, address = self._handle, self._traps, self._callbacks.address
        for instruction, callback in (
            (uc.UC_X86_INS_OUT, OUT_CB(self._ports.make_write(self._hooks))),
            (uc.UC_X86_INS_IN, IN_CB(self._ports.make_read(self._hooks))),
            (uc.UC_X86_INS_CPUID, SKIP_CB(self._guard(traps.cpuid))),
            (uc.UC_X86_INS_RDTSC, SKIP_CB(self._guard(traps.rdtsc))),
            (uc.UC_X86_INS_RDTSCP, SKIP_CB(self._guard(traps.rdtscp))),
            (uc.UC_X86_INS_SYSCALL, PLAIN_CB(self._guard(traps.syscall))),
            (uc.UC_X86_INS_SYSENTER, PLAIN_CB(self._guard(traps.sysenter))),
        ):
            uc.hook(handle, uc.UC_HOOK_INSN, address(callback), instruction)
        # never called; where such a hook covers RAM, the engine looks for code at every store. Without it,
        # stores through a mapping with NX leave old code running.
        uc.hook(handle, uc.UC_HOOK_MEM_WRITE_UNMAPPED, address(STORE_CB(lambda *_access: False)))
        uc.hook(handle, uc.UC_HOOK_INTR, address(INTR_CB(self._event)))
        uc.hook(handle, uc.UC_HOOK_INSN_INVALID, address(INVALID_CB(self._guard(traps.invalid))))

    def _guard(self, trap: Callable[[], None]) -> Callable[[int, int], int]:
        slices, fail = self._slices, self._hooks.fail

        def hook(_engine: int, _user: int) -> int:
            slices.between_blocks = True
            try:
                trap()
            except BaseException as error:  # ours: never unwind into the engine
                fail(error)
            slices.between_blocks = False
            return 1

        return hook

    def _event(self, _engine: int, number: int, _user: int) -> None:
        self._slices.between_blocks = True
        try:
            self._traps.event(number)
        except BaseException as error:  # ours: never unwind into the engine
            self._hooks.fail(error)
        self._slices.between_blocks = False

    def _halt(self) -> None:
        self._halted = True
        self._slices.end()

    def _map_area(self, area: MmioArea) -> None:
        read = self._callbacks.address(READ_CB(make_area_read(area, self._replay)))
        write = self._callbacks.address(WRITE_CB(make_area_write(area, self._replay, self._bells)))
        uc.map_area(self._handle, area.base, area.size, read, write)

    def _self_check(self, ram: int) -> None:
        """HLT must come as an intercept."""
        probe(self, ram)
        self._flush = True
        if not self._halted or self.context.register(uc.UC_X86_REG_RAX) != PROBE_RAX:
            raise EngineError("the engine does not intercept HLT through a context as unicorn 2.1.4 does")

    def start_at(self, state: StartState) -> None:
        """Put the CPU into `state`, all else as after INIT."""
        self.context.load()
        enter(self.context.state, state)
        self.context.store()
        self._requested = self._nmi = self._halted = False
        self._flush_tlb()

    def _flush_tlb(self) -> None:
        uc.control(self._handle, uc.UC_CTL_FLUSH_TLB, "to flush its TLB")

    # ---- running -----------------------------------------------------------------------------------

    def execute(self) -> None:
        """Run until HLT, a stop or a shutdown. Raises EngineError."""
        self._halted = False
        self._slices.own()
        signals, look = self.signals, self._deadline.look
        while not self._halted:
            if self._flush:
                self._flush = False
                uc.control(self._handle, uc.UC_CTL_FLUSH_TB, "to flush its code")
            if self._leave:
                self._leave = False
                return
            look()
            count = SLICE
            if self._requested or self._nmi or signals.alarm or signals.poked:
                count = self._offer()
                if not count:
                    return
            if not self._has_orders():
                self._run_slice(count)

    def _has_orders(self) -> bool:
        return self._leave or self._flush

    def _offer(self) -> int:
        """Deliver what is pending where the guest allows it; instructions to run then, 0 to leave."""
        cpu = self.context.state
        self.context.load()
        if cpu.hflags.value & HF_INHIBIT:
            return 1
        if self._nmi and not cpu.hflags2.value & HF2_NMI:
            self._nmi = False
            self._traps.interrupt(NMI)
            return self._watch() if self._requested else SLICE
        if not cpu.interrupts_enabled:
            return 0 if self.signals.alarm else self._watch()
        self._watched = 0
        self._requested, self.signals.poked = False, 0
        vector = self._acknowledge()
        if vector >= 0:
            self.interrupts += 1
            self._traps.interrupt(vector)
        return self._watch() if self._requested or self._nmi else SLICE

    def _watch(self) -> int:
        """Single steps, so that a short STI .. CLI is not missed; not for ever, for a guest that waits."""
        self._watched += 1
        return 1 if self._watched < STEPS else SLICE

    def _acknowledge(self) -> int:
        try:
            return self._hooks.acknowledge()
        except BaseException as error:  # ours: the run ends with it
            self._hooks.fail(error)
            return -1

    def _run_slice(self, count: int) -> None:
        """Run `count` instructions, and to its end the one that a device's stop left half done."""
        slices, ports = self._slices, self._ports
        while True:
            status = slices.run(count)
            if ports.refused is not None:
                self._traps.fault(GP, ports.refused)
                ports.refused = None
                return
            if status:
                self._fetch_failed(status)
                return
            if slices.ended_at is None or not slices.is_half_done():
                return
            self._replay.begin()
            count = 1

    def _fetch_failed(self, status: int) -> None:
        """The guest jumped to where no memory is. Hardware reads all ones there: FF FF, #UD."""
        if status not in (uc.UC_ERR_FETCH_PROT, uc.UC_ERR_FETCH_UNMAPPED):
            uc.check(status, f"to go on at rip {self.rip():#x}")
        self._traps.fault(UD)

    def stop(self) -> None:
        """Leave `execute` soon; any thread."""
        self._leave = True
        self._slices.end()

    def request_interrupt(self) -> None:
        """Ask for an INTA cycle."""
        self._requested = True
        self._slices.end()

    def raise_nmi(self) -> None:
        """Vector 2 as soon as no NMI is being served."""
        self._nmi = True
        self._slices.end()

    @property
    def nmi_pending(self) -> bool:
        """NMI is waiting."""
        return self._nmi

    @property
    def halted(self) -> bool:
        """`execute` ended at a HLT."""
        return self._halted

    @property
    def interrupts_enabled(self) -> bool:
        """RFLAGS.IF."""
        return bool(self.context.register(uc.UC_X86_REG_EFLAGS) & EFLAGS_IF)

    def make_deadline(self) -> PolledDeadline:
        """The deadline that `execute` looks at."""
        self._deadline.disarm()
        return self._deadline

    # ---- translated code ---------------------------------------------------------------------------

    def make_written(self, stale: Callable[[int, int], None]) -> Callable[[int, int], None]:
        """Every write counts: the public interface does not tell which pages hold translated code."""
        return stale

    def holds_code(self, _gpa: int, _length: int) -> bool:
        """Unknown here: always."""
        return True

    def forget_code(self, _gpa: int, _length: int) -> None:
        """Drop all translated code before the next instruction."""
        self._flush = True
        self._slices.end()

    def foreign_wrote(self) -> None:
        """Drop all translated code at the end of the slice: before an interrupt that follows is delivered."""
        self._flush = True

    def watch_rings(self, _used_idx: Sequence[int]) -> None:
        """Not looked at: `foreign_wrote` counts."""

    # ---- looking in --------------------------------------------------------------------------------

    def doorbells_of(self, _gpa: int) -> Bells:
        """The ioeventfds of the area that an address lies in."""
        return self._bells

    def rip(self) -> int:
        """The address of the current instruction, inside a hook too."""
        return self.context.register(uc.UC_X86_REG_RIP)

    def mmio_rip(self) -> int:
        """The same in an MMIO callback."""
        return self.rip()

    def registers(self) -> dict[str, int]:
        """General registers, RIP, the selectors, control registers."""
        self.context.load()
        return self.context.state.registers(self.context.rflags())

    def read_virtual(self, address: int, length: int) -> bytes | None:
        """Guest memory through the current page tables."""
        return uc.vmem_read(self._handle, address, length)

    def protect(self, gpa: int, size: int, writable: bool) -> None:
        """Open or close a piece of RAM for stores."""
        uc.protect(self._handle, gpa, size, writable=writable)
        self._flush_tlb()

    def host_tsc(self) -> int:
        """Nanoseconds of the host's monotonic clock: the counter runs at 1 GHz."""
        return time.monotonic_ns()

    def set_tsc_offset(self, offset: int) -> None:
        """RDTSC in the guest gives the host's counter plus `offset`."""
        self._traps.tsc_offset = offset

    def close(self) -> None:
        """Free the engine."""
        if self._handle:
            self.context.free()
            LIB_HELD.uc_close(P(self._handle))
            self._paging.release()
            self._handle = 0
