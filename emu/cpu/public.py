"""The engine that needs nothing but Unicorn's public API: slower, for where the fast one does not work.

The guest runs in slices of `count=` instructions; between them this engine looks for stops, deadlines and
interrupts. Exceptions and interrupts are delivered in Python (public_events.py). HLT, MSRs and CR8 come as
SVM intercepts, switched on in a saved context (public_state.py).

A stop in the middle of a slice would repeat an instruction that has stored already, so no other thread ever
stops a slice. A device may (an interrupt, DMA into code): where the instruction then begins anew, its device
accesses are answered from a record, and it ends before anything else happens.

The engine's dirty-page flaw (ARCHITECTURE.md) is cured by a hook that is never called, at the price of slow
stores. What is not cured: an exception frame pushed onto a page of code does not drop that code; each DMA
drops all translated code, and so does each interrupt of a device that another process serves: code that such
a device wrote is seen by no guest that only polls; an STI .. CLI shorter than a slice may be missed once
something has been pending for STEPS instructions with interrupts off; task gates are answered like bad gates;
no deterministic mode.
"""

import contextlib
import ctypes as C
import mmap
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from emu.cpu import library as uc
from emu.cpu import msr
from emu.cpu.engine import EngineHooks, MmioArea, RamBlock
from emu.cpu.layout import (
    CS,
    ENV_GDT,
    ENV_IDT,
    ENV_LDT,
    ENV_TR,
    ES,
    HF_CS64,
    HF_GUEST,
    RAX,
    RBX,
    RCX,
    RDI,
    RDX,
    REG_NAMES,
    RSI,
    RSP,
)
from emu.cpu.library import (
    IN_CB,
    INTR_CB,
    INVALID_CB,
    LIB,
    LIB_HELD,
    OUT_CB,
    PLAIN_CB,
    READ_CB,
    SKIP_CB,
    STORE_CB,
    WRITE_CB,
    P,
)
from emu.cpu.public_deadline import Bells, PolledDeadline, PublicSignals
from emu.cpu.public_events import GP, NMI, Events
from emu.cpu.public_memory import CpuFault, Paging
from emu.cpu.public_state import HF2_NMI, HF_INHIBIT, HF_LMA, Context
from emu.cpu.state import CODE16, CODE32, CODE64, CR0, CR4, DATA16, DATA32, EFER, HFLAGS, StartState
from emu.errors import EngineError

SLICE: Final = 2000
"""Guest instructions between two looks: about 20 us."""
STEPS: Final = 4000
"""Single steps while something is pending and the guest has interrupts off; then slices again."""
PAGE: Final = 4096
VMCB_GPA: Final = 1 << 40
_VMCB_SIZE, _MSR_BITMAP, _MSRPM_BASE_PA = 0x4000, 0x1000, 0x48
# SVM exit codes (AMD APM volume 2, appendix C), as the engine numbers them: 0x100 + code
_SVM, _EXIT_CR8_READ, _EXIT_CR8_WRITE, _EXIT_HLT, _EXIT_MSR = 0x100, 0x108, 0x118, 0x178, 0x17C
_INTERCEPT_HLT, _INTERCEPT_MSR = 1 << 0x18, 1 << 0x1C
_UD, _IF, _RF, _VM, _SCE = 6, 0x200, 0x1_0000, 0x2_0000, 1
_UC_ERR_FETCH_UNMAPPED, _UC_ERR_FETCH_PROT = 8, 14
UC_HOOK_MEM_WRITE_UNMAPPED: Final = 1 << 5
_UC_CTL_TLB_FLUSH: Final = 1 << 30 | 11
_ONE_BYTE: Final = {1: 0xF1, 3: 0xCC, 4: 0xCE}
"""INT1, INT3, INTO: vector to opcode."""
_PREFIX_BYTES: Final = bytes((*range(0x40, 0x50), 0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF2, 0xF3))
_LEGACY_PREFIXES: Final = frozenset((0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF0, 0xF2, 0xF3))

Access = tuple[int, int, int]
"""Kind (0 read, 1 write, 2 IN), address, width."""


class PublicEngine:
    """One Unicorn CPU; see `emu.cpu.engine.Engine` and, for its limits, the text of this module."""

    name = "public"

    def __init__(self, ram: Sequence[RamBlock], hooks: EngineHooks, wake_fd: int) -> None:
        self._handle = uc.open_x86()
        self._hooks, self._wake_fd = hooks, wake_fd
        self.signals = PublicSignals()
        self.interrupts = 0
        self._deadline = PolledDeadline(self.signals, wake_fd)
        self._keep: list[object] = []
        uc.map_ram(self._handle, ram)
        uc.check(LIB_HELD.uc_ctl(P(self._handle), uc.UC_CTL_USE_EXITS_ON, 1), "exits")
        self.context = Context(self._handle)
        self._paging = Paging(ram, self.context)
        self._events = Events(self.context, self._paging)
        self._bells = Bells()
        self._recent: deque[tuple[Access, int]] = deque(maxlen=8)
        self._replay: list[tuple[Access, int]] = []
        self._replay_at = 0
        self._place: tuple[int, ...] | None = None
        self._between = False
        self._watched = 0
        self._fault_at: int | None = None
        self._thread = 0
        self._running = self._leave = self._flush = self._requested = self._nmi = self._halted = False
        self._tsc_offset = 0
        self._map_vmcb()
        self._hook_all()
        for area in hooks.areas:
            self._map_area(area)
        self.context.check()
        self._self_check(ram[0].address + PAGE)

    # ---- set-up ------------------------------------------------------------------------------------

    def _map_vmcb(self) -> None:
        self._vmcb = mmap.mmap(-1, _VMCB_SIZE)
        pointer = C.addressof(C.c_char.from_buffer(self._vmcb))
        uc.map_memory(self._handle, VMCB_GPA, _VMCB_SIZE, uc.UC_PROT_READ | uc.UC_PROT_WRITE, pointer)
        struct.pack_into("<Q", self._vmcb, _MSRPM_BASE_PA, VMCB_GPA + _MSR_BITMAP)
        self._vmcb[_MSR_BITMAP : _MSR_BITMAP + 0x1800] = b"\xff" * 0x1800
        for index in msr.NATIVE:
            bit = 2 * (index if index < 0x2000 else 0x2000 + index - 0xC000_0000)
            self._vmcb[_MSR_BITMAP + bit // 8] &= ~(3 << bit % 8) & 0xFF

    def _hook_all(self) -> None:
        handle = self._handle
        for instruction, callback in (
            (uc.UC_X86_INS_OUT, OUT_CB(self._make_port_write())),
            (uc.UC_X86_INS_IN, IN_CB(self._make_port_read())),
            (uc.UC_X86_INS_CPUID, SKIP_CB(self._guard(self._cpuid))),
            (uc.UC_X86_INS_RDTSC, SKIP_CB(self._guard(self._rdtsc))),
            (uc.UC_X86_INS_RDTSCP, SKIP_CB(self._guard(self._rdtscp))),
            (uc.UC_X86_INS_SYSCALL, PLAIN_CB(self._guard(self._syscall))),
            (uc.UC_X86_INS_SYSENTER, PLAIN_CB(self._guard(self._sysenter))),
        ):
            uc.hook(handle, uc.UC_HOOK_INSN, self._pointer(callback), instruction)

        def event(_engine: int, number: int, _user: int) -> None:
            guarded(number)

        def invalid(_engine: int, _user: int) -> int:
            guarded(_UD)
            return 1

        def guarded(number: int) -> None:
            self._between = True
            try:
                self._event(number)
            except BaseException as error:  # ours: never unwind into the engine
                self._hooks.fail(error)
            self._between = False

        def unmapped(*_access: int) -> bool:
            return False

        # never called; where such a hook covers RAM, the engine looks for code at every store. Without it,
        # stores through a mapping with NX leave old code running.
        uc.hook(handle, UC_HOOK_MEM_WRITE_UNMAPPED, self._pointer(STORE_CB(unmapped)))
        uc.hook(handle, uc.UC_HOOK_INTR, self._pointer(INTR_CB(event)))
        uc.hook(handle, uc.UC_HOOK_INSN_INVALID, self._pointer(INVALID_CB(invalid)))

    def _guard(self, call: Callable[[], None]) -> Callable[[int, int], int]:
        def hook(_engine: int, _user: int) -> int:
            self._between = True
            try:
                call()
            except BaseException as error:  # ours: never unwind into the engine
                self._hooks.fail(error)
            self._between = False
            return 1

        return hook

    def _pointer(self, callback: object) -> int:
        """The address of a ctypes callback, kept alive as long as the engine."""
        self._keep.append(callback)
        address = C.cast(callback, P).value  # type: ignore[arg-type]  # any CFUNCTYPE object
        assert address is not None
        return address

    def _map_area(self, area: MmioArea) -> None:
        read = self._pointer(READ_CB(self._make_read(area)))
        write = self._pointer(WRITE_CB(self._make_write(area)))
        status = LIB_HELD.uc_mmio_map(self._handle, area.base, area.size, P(read), None, P(write), None)
        uc.check(status, f"an area at {area.base:#x}")
        # fetches from there read all ones, as on hardware, instead of ending the engine
        LIB_HELD.uc_mem_protect(P(self._handle), C.c_uint64(area.base), C.c_size_t(area.size), uc.UC_PROT_ALL)

    def _self_check(self, page: int) -> None:
        """HLT must come as an intercept. Real mode at page 1 of the RAM, whose bytes are put back."""
        code = (C.c_char * 32).from_address(page)
        saved = code.raw
        code.raw = bytes.fromhex("66b8efcdab89 f4").ljust(32, b"\0")  # mov eax, 0x89abcdef; hlt
        self.start_at(StartState("real", PAGE))
        self.execute()
        code.raw = saved
        self._flush = True
        if not self._halted or self.context.register(uc.UC_X86_REG_RAX) != 0x89ABCDEF:
            raise EngineError("the engine does not intercept HLT through a context as unicorn 2.1.4 does")

    def start_at(self, state: StartState) -> None:
        """Put the CPU into `state`, all else as after INIT."""
        context, mode = self.context, state.mode
        context.load()
        code, data = {"real": (CODE16, DATA16), "protected32": (CODE32, DATA32)}.get(mode, (CODE64, DATA32))
        limit = 0xFFFF if mode == "real" else 0xFFFF_FFFF
        selectors = (0, 0) if mode == "real" else state.selectors
        for i in range(6):
            context.set_segment(i, (selectors[1], 0, limit, data))
        selector = state.cs if mode == "real" else selectors[0]
        context.set_segment(CS, (selector, state.code_base, limit, code))
        context.set_segment_at(ENV_TR, (0, 0, 0xFFFF, 0x8B00))
        context.set_segment_at(ENV_LDT, (0, 0, 0xFFFF, 0x8200))
        context.set_segment_at(ENV_GDT, (0, state.gdt, state.selectors[1] + 7 if state.gdt else 0xFFFF, 0))
        context.set_segment_at(ENV_IDT, (0, 0, 0x3FF if mode == "real" else 0, 0))
        context.cr[0], context.cr[2], context.cr[3], context.cr[4] = CR0[mode], 0, state.cr3, CR4[mode]
        context.efer.value = EFER[mode]
        context.hflags.value, context.hflags2.value = HFLAGS[mode] | HF_GUEST, 1
        context.set_rflags(2)
        context.old_exception.value, context.is_int.value = -1, 0
        for i, name in enumerate(REG_NAMES):
            context.regs[i] = state.registers.get(name, state.registers.get("e" + name[1:], 0))
        context.rip.value = state.rip
        context.vmcb.value, context.intercept.value = VMCB_GPA, _INTERCEPT_HLT | _INTERCEPT_MSR
        context.intercept_cr_read.value = context.intercept_cr_write.value = 1 << 8
        context.store()
        self._requested = self._nmi = self._halted = False
        uc.check(LIB_HELD.uc_ctl(P(self._handle), _UC_CTL_TLB_FLUSH), "to flush its TLB")

    # ---- running -----------------------------------------------------------------------------------

    def execute(self) -> None:
        """Run until HLT, a stop or a shutdown. Raises EngineError."""
        self._thread, self._halted = threading.get_ident(), False
        signals, look = self.signals, self._deadline.look
        while not self._halted:
            if self._flush:
                self._flush = False
                uc.check(LIB_HELD.uc_ctl(P(self._handle), uc.UC_CTL_FLUSH_TB), "to flush its code")
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
                self._slice(count)

    def _has_orders(self) -> bool:
        return self._leave or self._flush

    def _offer(self) -> int:
        """Deliver what is pending where the guest allows it; instructions to run then, 0 to leave."""
        context = self.context
        context.load()
        if context.hflags.value & HF_INHIBIT:
            return 1
        if self._nmi and not context.hflags2.value & HF2_NMI:
            self._nmi = False
            self._deliver(NMI)
            return self._watch() if self._requested else SLICE
        if not context.interrupts_enabled:
            return 0 if self.signals.alarm else self._watch()
        self._watched = 0
        self._requested, self.signals.poked = False, 0
        vector = self._acknowledge()
        if vector >= 0:
            self.interrupts += 1
            context.load()
            self._deliver(vector)
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

    def _deliver(self, vector: int) -> None:
        """An interrupt or NMI into the loaded context."""
        if not self._events.interrupt(vector):
            self._hooks.triple_fault()
        self.context.store()

    def _slice(self, count: int) -> None:
        """Run `count` instructions, and to its end the one that a device's stop left half done."""
        while True:
            self._place, self._running = None, True
            rip = self.context.register(uc.UC_X86_REG_RIP)
            status = LIB.uc_emu_start(self._handle, rip, 0, 0, count)
            self._running = False
            if self._fault_at is not None:
                self._port_fault(self._fault_at)
                return
            if status:
                self._fetch_failed(status)
                return
            if not self._begins_anew():
                return
            self._replay, self._replay_at, count = list(self._recent), -1, 1

    def _begins_anew(self) -> bool:
        """A device ended the slice in the middle of an instruction: of the same round, if a repeated one."""
        place = self._place
        if place is None:
            return False
        self.context.load()
        regs = self.context.regs
        return place == (self.context.rip.value, regs[RCX], regs[RSI], regs[RDI])

    def _port_fault(self, rip: int) -> None:
        """An IN or OUT without the right to: #GP at the instruction."""
        self._fault_at = None
        self.context.load()
        self.context.rip.value = rip
        self._raise(GP, 0)
        self.context.store()

    def _fetch_failed(self, status: int) -> None:
        """The guest jumped to where no memory is. Hardware reads all ones there: FF FF, #UD."""
        if status not in (_UC_ERR_FETCH_PROT, _UC_ERR_FETCH_UNMAPPED):
            uc.check(status, f"to go on at rip {self.context.register(uc.UC_X86_REG_RIP):#x}")
        self.context.load()
        self._raise(_UD, 0)
        self.context.store()

    def stop(self) -> None:
        """Leave `execute` soon; any thread."""
        self._leave = True
        self._end_slice()

    def _end_slice(self) -> None:
        """In a hook: no more instructions than this one. Elsewhere the slice ends soon enough."""
        if self._running and threading.get_ident() == self._thread:
            if self._place is None and not self._between:
                saved = self.context
                self._place = (
                    saved.register(uc.UC_X86_REG_RIP),
                    *(saved.register(number) for number in _PLACE_REGISTERS),
                )
            LIB_HELD.uc_emu_stop(self._handle)

    def request_interrupt(self) -> None:
        """Ask for an INTA cycle."""
        self._requested = True
        self._end_slice()

    def raise_nmi(self) -> None:
        """Vector 2 as soon as no NMI is being served."""
        self._nmi = True
        self._end_slice()

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
        return bool(self.context.register(uc.UC_X86_REG_EFLAGS) & _IF)

    def make_deadline(self) -> PolledDeadline:
        """The deadline that `execute` looks at."""
        self._deadline.disarm()
        return self._deadline

    # ---- device accesses ---------------------------------------------------------------------------

    def _make_port_read(self) -> Callable[[int, int, int, int], int]:
        port_read, recent = self._hooks.port_read, self._recent

        def read(engine: int, port: int, width: int, user: int) -> int:
            if not self._may_use(port, width):
                return self._unchanged(width)
            key = (2, port, width)
            if self._replay:
                found = self._replayed(key)
                if found is not None:
                    return found
            value = port_read(engine, port, width, user)
            recent.append((key, value))
            return value

        return read

    def _make_port_write(self) -> Callable[[int, int, int, int, int], None]:
        port_write = self._hooks.port_write

        def write(engine: int, port: int, width: int, value: int, user: int) -> None:
            if self._may_use(port, width):
                port_write(engine, port, width, value, user)

        return write

    def _may_use(self, port: int, width: int) -> bool:
        """The check of IOPL and the TSS's bitmap, which the engine leaves out; sees to the #GP."""
        context = self.context
        context.load()
        allowed = self._events.may_use_port(port, width)
        if not allowed:
            self._fault_at = context.rip.value
            self._end_slice()
        return allowed

    def _unchanged(self, width: int) -> int:
        """What IN or INS would leave as it was: the instruction must have no effect."""
        context = self.context
        code = self._code(context.rip.value, 15).lstrip(_PREFIX_BYTES)
        if code[:1] in (b"\x6c", b"\x6d"):
            with contextlib.suppress(CpuFault):
                data = self._paging.read(context.segment(ES)[1] + context.regs[RDI] & msr.MASK64, width)
                return int.from_bytes(data, "little")
        return context.regs[RAX] & (1 << 8 * width) - 1

    def _make_read(self, area: MmioArea) -> Callable[[int, int, int, int], int]:
        base, area_read, recent = area.base, area.read, self._recent

        def read(engine: int, offset: int, width: int, user: int) -> int:
            key = (0, base + offset, width)
            if self._replay:
                found = self._replayed(key)
                if found is not None:
                    return found
            value = area_read(engine, offset, width, user)
            recent.append((key, value))
            return value

        return read

    def _make_write(self, area: MmioArea) -> Callable[[int, int, int, int, int], None]:
        base, area_write, recent, ring = area.base, area.write, self._recent, self._bells.ring

        def write(engine: int, offset: int, width: int, value: int, user: int) -> None:
            key = (1, base + offset, width)
            if self._replay and self._replayed(key) is not None:
                return
            recent.append((key, 0))
            if not ring(base + offset):
                area_write(engine, offset, width, value, user)

        return write

    def _replayed(self, key: Access) -> int | None:
        """The recorded answer to an access of an instruction that begins anew, None for a new access."""
        log, at = self._replay, self._replay_at
        if at < 0:  # the instruction's accesses are the last ones: look for its first from the end
            at = next((i for i in range(len(log) - 1, -1, -1) if log[i][0] == key), len(log))
        if at < len(log) and log[at][0] == key:
            self._replay_at = at + 1
            return log[at][1]
        self._replay = []
        return None

    def doorbells_of(self, _gpa: int) -> Bells:
        """The ioeventfds of the area that an address lies in."""
        return self._bells

    # ---- instructions that need Python -------------------------------------------------------------

    def _cpuid(self) -> None:
        context = self.context
        context.load()
        regs = context.regs
        regs[RAX], regs[RBX], regs[RCX], regs[RDX] = self._hooks.cpuid(
            regs[RAX] & 0xFFFF_FFFF, regs[RCX] & 0xFFFF_FFFF
        )
        context.store()

    def _rdtsc(self) -> None:
        context = self.context
        context.load()
        value = self.host_tsc() + self._tsc_offset
        context.regs[RAX], context.regs[RDX] = value & 0xFFFF_FFFF, value >> 32 & 0xFFFF_FFFF
        context.store()

    def _rdtscp(self) -> None:
        self._rdtsc()
        self.context.regs[RCX] = self.context.tsc_aux.value & 0xFFFF_FFFF
        self.context.store()

    def _syscall(self) -> None:
        """The engine adds 2 to RIP after this."""
        context = self.context
        context.load()
        if not context.efer.value & _SCE or not context.hflags.value & HF_CS64:
            self._raise(_UD, 0)
        else:
            flags = context.rflags()
            context.regs[RCX], context.regs[11] = context.rip.value + 2, flags & ~_RF
            context.set_rflags(flags & ~(context.fmask.value | _RF) & 0xFFFF_FFFF)
            self._events.enter_flat(context.star.value >> 32 & 0xFFFF, code64=True)
            context.rip.value = context.lstar.value
        context.rip.value -= 2
        context.store()

    def _sysenter(self) -> None:
        """The engine adds 2 to RIP after this."""
        context = self.context
        context.load()
        selector = context.sysenter_cs.value & 0xFFFF
        if not selector & 0xFFFC:
            self._raise(GP, 0)
        else:
            is_long = bool(context.hflags.value & HF_LMA)
            context.set_rflags(context.rflags() & ~(_IF | _RF | _VM))
            self._events.enter_flat(selector, code64=is_long)
            context.regs[RSP], context.rip.value = context.sysenter_esp.value, context.sysenter_eip.value
        context.rip.value -= 2
        context.store()

    # ---- events ------------------------------------------------------------------------------------

    def _event(self, number: int) -> None:
        """An exception, INT n or an SVM exit; between two blocks of guest code."""
        context = self.context
        context.load()
        is_int, context.is_int.value = context.is_int.value, 0
        context.old_exception.value = -1
        if number >= _SVM:
            self._svm_exit(number)
        elif is_int:
            after = context.rip.value = context.next_rip.value
            if not self._events.software(number, after - self._int_length(number, after)):
                self._hooks.triple_fault()
        else:
            self._raise(number, context.error_code.value)
        context.store()

    def _raise(self, vector: int, error: int) -> None:
        if not self._events.exception(vector, error):
            self._hooks.triple_fault()

    def _int_length(self, vector: int, after: int) -> int:
        one_byte = _ONE_BYTE.get(vector)
        return 1 if one_byte is not None and self._code(after - 1, 1)[:1] == bytes((one_byte,)) else 2

    def _code(self, rip: int, length: int) -> bytes:
        """Bytes of the current code segment, fewer at the end of what is mapped."""
        base, found = self.context.segment(CS)[1], b""
        saved = self.context.cr[2]
        try:
            for i in range(length):
                found += self._paging.read(base + rip + i & msr.MASK64, 1)
        except CpuFault:
            self.context.cr[2] = saved
        return found

    def _svm_exit(self, number: int) -> None:
        context = self.context
        code, length, rex = self._code(context.rip.value, 15), 0, 0
        while length < len(code) and (
            code[length] in _LEGACY_PREFIXES
            or (context.hflags.value & HF_CS64 and code[length] & 0xF0 == 0x40)
        ):
            rex = code[length] if code[length] & 0xF0 == 0x40 else 0
            length += 1
        good = True
        if number == _EXIT_HLT:
            self._halted = True
            length += 1
            self._end_slice()
        elif number == _EXIT_MSR:
            length += 2
            good = self._msr()
        elif number in (_EXIT_CR8_READ, _EXIT_CR8_WRITE):
            register = code[length + 2] & 7 | (rex & 1) << 3
            length += 3
            good = self._cr8(register, is_write=number == _EXIT_CR8_WRITE)
        else:
            raise EngineError(f"the engine left with an unknown code {number:#x}")
        if good:
            context.hflags.value &= ~HF_INHIBIT
            context.rip.value += length
        else:
            self._raise(GP, 0)

    def _msr(self) -> bool:
        context = self.context
        regs, index = context.regs, context.regs[RCX] & 0xFFFF_FFFF
        if context.error_code.value:  # WRMSR
            value = (regs[RDX] & 0xFFFF_FFFF) << 32 | regs[RAX] & 0xFFFF_FFFF
            return self._hooks.write_msr(index, value)
        found = self._hooks.read_msr(index)
        if found is not None:
            regs[RAX], regs[RDX] = found & 0xFFFF_FFFF, found >> 32
        return found is not None

    def _cr8(self, register: int, *, is_write: bool) -> bool:
        """CR8 is bits 7:4 of the task priority."""
        regs = self.context.regs
        if not is_write:
            regs[register] = self._hooks.read_tpr() >> 4
        elif regs[register] <= 0xF:
            self._hooks.write_tpr(regs[register] << 4)
        return is_write is False or regs[register] <= 0xF

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
        self._end_slice()

    def foreign_wrote(self) -> None:
        """Drop all translated code at the end of the slice: before an interrupt that follows is delivered."""
        self._flush = True

    def watch_rings(self, _used_idx: Sequence[int]) -> None:
        """Not looked at: `foreign_wrote` counts."""

    # ---- looking in --------------------------------------------------------------------------------

    def rip(self) -> int:
        """The address of the current instruction, inside a hook too."""
        return self.context.register(uc.UC_X86_REG_RIP)

    def mmio_rip(self) -> int:
        """The same in an MMIO callback."""
        return self.rip()

    def registers(self) -> dict[str, int]:
        """General registers, RIP, the selectors, control registers."""
        context = self.context
        context.load()
        found = {name: context.regs[i] for i, name in enumerate(REG_NAMES)}
        found["rip"] = context.rip.value
        for i, name in enumerate(("es", "cs", "ss", "ds", "fs", "gs")):
            found[name] = context.segment(i)[0]
        for i in (0, 2, 3, 4):
            found[f"cr{i}"] = context.cr[i]
        found["rflags"], found["efer"] = context.rflags(), context.efer.value
        return found

    def read_virtual(self, address: int, length: int) -> bytes | None:
        """Guest memory through the current page tables."""
        return uc.vmem_read(self._handle, address, length)

    def protect(self, gpa: int, size: int, writable: bool) -> None:
        """Open or close a piece of RAM for stores."""
        uc.protect(self._handle, gpa, size, writable=writable)
        uc.check(LIB_HELD.uc_ctl(P(self._handle), _UC_CTL_TLB_FLUSH), "to flush its TLB")

    def host_tsc(self) -> int:
        """Nanoseconds of the host's monotonic clock: the counter runs at 1 GHz."""
        return time.monotonic_ns()

    def set_tsc_offset(self, offset: int) -> None:
        """RDTSC in the guest gives the host's counter plus `offset`."""
        self._tsc_offset = offset

    def close(self) -> None:
        """Free the engine."""
        if self._handle:
            self.context.free()
            LIB_HELD.uc_close(P(self._handle))
            self._paging.release()
            self._handle = 0


_PLACE_REGISTERS: Final = (uc.UC_X86_REG_RCX, uc.UC_X86_REG_RSI, uc.UC_X86_REG_RDI)
