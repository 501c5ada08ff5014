"""The fast engine: Unicorn 2.1.4 driven through its private fields and native thunks.

native/thunks.c delivers exceptions and interrupts and does SYSCALL; what it leaves to Python is in
intercepted.py. layout.py has the fields, translated.py the code that the engine holds.
`FastEngine` raises EngineError where the library is not the one it knows, after a check of about 2 ms.
"""

import ctypes as C
from collections.abc import Callable, Sequence
from typing import Final

from emu.cpu import library as uc
from emu.cpu import msr
from emu.cpu.alarm import Alarm
from emu.cpu.control_block import (
    EXIT_SHUTDOWN,
    INTERCEPT_INIT,
    INTERCEPT_INTR,
    INTERCEPT_MSR,
    INTERCEPT_SHUTDOWN,
    ControlBlock,
)
from emu.cpu.doorbells import Doorbells
from emu.cpu.engine import EngineHooks, MmioArea, RamBlock
from emu.cpu.intercepted import LONGEST, Intercepted, make_cpuid
from emu.cpu.layout import CS, HARD, HF_CS64, LEAVE, NMI, RAX, Fields
from emu.cpu.library import LIB, LIB_HELD, NARROW, SKIP_CB, AccessPrototypes, P
from emu.cpu.native.load import MachineRecord, install, native, remove
from emu.cpu.native.watch import ForeignWatch
from emu.cpu.start import PROBE, PROBE_AT, PROBE_RAX, enter, probe
from emu.cpu.state import StartState
from emu.cpu.translated import PAGE, TranslatedCode
from emu.errors import EngineError

_EVENTS: Final = INTERCEPT_INTR | INTERCEPT_INIT | INTERCEPT_MSR | INTERCEPT_SHUTDOWN
_GP: Final = 13

ACK_CB = C.CFUNCTYPE(C.c_int)
EVENT_CB = C.CFUNCTYPE(C.c_int, P, C.c_uint32, P)
TSC_CALL = C.CFUNCTYPE(C.c_uint64)

LIB_HELD.cpu_restore_state_x86_64.argtypes = [P, C.c_uint64, C.c_bool]
LIB_HELD.tlb_flush_x86_64.argtypes = [P]


class _Events(C.Structure):
    """`struct events` of thunks.c."""

    _fields_ = [
        *(("cpu", P), ("machine", P), ("apic", P), ("acknowledge", P), ("python", P)),
        *(("delivering", C.c_uint32), ("is_int_n", C.c_uint32)),
    ]


class _Ports(C.Structure):
    """`struct ports` of thunks.c."""

    _fields_ = [("env", P), ("out", P), ("in", P)]


class FastEngine:
    """One Unicorn CPU; see `emu.cpu.engine.Engine`. `wake_fd` ends the wait of a halted vCPU."""

    name = "fast"
    prototypes: AccessPrototypes = NARROW

    def __init__(self, ram: Sequence[RamBlock], hooks: EngineHooks, wake_fd: int) -> None:
        self._handle = uc.open_x86()
        self._hooks = hooks
        self._callbacks = uc.Callbacks()
        numbered = uc.map_ram(self._handle, ram)
        self.code = code = TranslatedCode(self._handle, ram, numbered)
        uc.use_exits(self._handle)
        self.fields = fields = Fields(self._handle)
        fields.no_exit_request.value = 1
        self._cpu = fields.state
        self._window = uc.Window(self._handle, LONGEST)
        self._intercepted = Intercepted(self._cpu, hooks, self._fetch)
        self.record = MachineRecord(
            0, self._handle, fields.cpu, code.address, code.pages, wake_fd, 0, 0, 0, 1
        )
        install(self.record)
        self.foreign = ForeignWatch(self.record, ram, numbered) if hooks.foreign_writes else None
        self.doorbells: list[Doorbells] = []
        self._begin = C.c_uint64()
        self._host_tsc = TSC_CALL(native("host_tsc"))
        self._hook_all()
        self._block = ControlBlock(self._handle)
        self._block.intercept(self._cpu, _EVENTS)
        for area in hooks.areas:
            self._map_area(area)
        self._request = memoryview(fields.interrupt_request).cast("B")
        self._kick = memoryview(fields.kick).cast("B").cast("H")
        self._self_check(ram[0].address)

    # ---- set-up ------------------------------------------------------------------------------------

    def _hook_all(self) -> None:
        hooks, handle, env = self._hooks, self._handle, self._cpu.address
        out = self._callbacks.address(self.prototypes.port_write(hooks.port_write))
        in_ = self._callbacks.address(self.prototypes.port_read(hooks.port_read))
        self._ports = _Ports(env, out, in_)
        ports = C.addressof(self._ports)
        uc.hook(handle, uc.UC_HOOK_INSN, native("port_out"), uc.UC_X86_INS_OUT, ports)
        uc.hook(handle, uc.UC_HOOK_INSN, native("port_in"), uc.UC_X86_INS_IN, ports)
        cpuid = self._callbacks.address(SKIP_CB(make_cpuid(self._cpu, hooks)))
        uc.hook(handle, uc.UC_HOOK_INSN, cpuid, uc.UC_X86_INS_CPUID)
        uc.hook(handle, uc.UC_HOOK_INSN, native("syscall_64"), uc.UC_X86_INS_SYSCALL, env)
        uc.hook(handle, uc.UC_HOOK_INSN, native("sysenter"), uc.UC_X86_INS_SYSENTER, env)
        acknowledge = self._callbacks.address(ACK_CB(self._make_acknowledge()))
        python = self._callbacks.address(EVENT_CB(self._event))
        record = C.addressof(self.record)
        self._events = _Events(self.fields.cpu, record, hooks.apic, acknowledge, python)
        uc.hook(handle, uc.UC_HOOK_INTR, native("event"), user=C.addressof(self._events))
        self.fields.stop_interrupt.value = 0  # #UD arrives at the same hook as the rest

    def _map_area(self, area: MmioArea) -> None:
        read = self._callbacks.address(self.prototypes.read(area.read))
        write = self._callbacks.address(self.prototypes.write(area.write))
        bells = Doorbells(area.base, area.size, write)
        self.doorbells.append(bells)
        if self._hooks.apic_eoi:
            bells.serve_eoi(self._hooks.apic_eoi, self._hooks.apic, self.fields.cpu)
        uc.map_area(self._handle, area.base, area.size, read, native("doorbell_write"), bells.address)

    def doorbells_of(self, gpa: int) -> Doorbells | None:
        """The native ioeventfds of the area that `gpa` lies in."""
        for bells in self.doorbells:
            if bells.base <= gpa < bells.base + bells.size:
                return bells
        return None

    def _self_check(self, ram: int) -> None:
        """Run a few instructions and compare what the private fields show with the public API."""
        probe(self, ram)
        fields, cpu, handle = self.fields, self._cpu, self._handle
        good = cpu.regs[RAX] == uc.reg_read(handle, uc.UC_X86_REG_RAX) == PROBE_RAX
        good = good and cpu.rip.value == uc.reg_read(handle, uc.UC_X86_REG_RIP) == PROBE_AT + len(PROBE)
        good = good and fields.halted.value == 1
        good = good and cpu.cr[0] == uc.reg_read(handle, uc.UC_X86_REG_CR0)
        good = good and self.holds_code(PROBE_AT, 1)  # the redirected calls reach our records
        good = good and (self.foreign is None or self.foreign.covers(self.code.spans(PROBE_AT, 1)[0][0]))
        self.forget_code(PROBE_AT, len(PROBE))
        if not good:
            raise EngineError("the engine's private fields do not behave as those of unicorn 2.1.4")

    # ---- running -----------------------------------------------------------------------------------

    def start_at(self, state: StartState) -> None:
        """Put the CPU into `state`, all else as after INIT."""
        enter(self._cpu, state)
        self.fields.interrupt_request.value = 0
        LIB_HELD.tlb_flush_x86_64(self.fields.cpu)

    def execute(self) -> None:
        """Run until HLT, a stop or a shutdown. Raises EngineError."""
        begin = self._begin
        begin.value = self._cpu.rip.value
        status = LIB.uc_emu_start(self._handle, begin, 0, 0, 0)
        if status:
            uc.check(status, f"to go on at rip {self._cpu.rip.value:#x}")

    def stop(self) -> None:
        """Leave `execute` at the end of the block that runs, or as soon as it begins."""
        self._request[1] |= LEAVE
        self._kick[0] = 0xFFFF

    def request_interrupt(self) -> None:
        """Ask for an INTA cycle; two plain stores, by memoryview: half the time of a ctypes field."""
        self._request[0] = HARD
        self._kick[0] = 0xFFFF

    def raise_nmi(self) -> None:
        """Vector 2 as soon as no NMI is being served.

        LEAVE too, for a signal that sets it between this load and store; one too many is harmless.
        """
        self._request[1] |= NMI | LEAVE
        self._kick[0] = 0xFFFF

    @property
    def nmi_pending(self) -> bool:
        """NMI is waiting."""
        return bool(self._request[1] & NMI)

    @property
    def halted(self) -> bool:
        """`execute` ended at a HLT."""
        return bool(self.fields.halted.value)

    @property
    def interrupts_enabled(self) -> bool:
        """RFLAGS.IF."""
        return self._cpu.interrupts_enabled

    # ---- hooks -------------------------------------------------------------------------------------

    def _make_acknowledge(self) -> Callable[[], int]:
        acknowledge, fail = self._hooks.acknowledge, self._hooks.fail

        def hook() -> int:
            try:
                return acknowledge()
            except BaseException as error:  # ours: never unwind into the engine
                fail(error)
                return -1

        return hook

    def _event(self, _engine: int, number: int, _user: int) -> int:
        """An SVM exit other than INTR: 1 raises the exception that is set up, 0 goes on."""
        fields, cpu = self.fields, self._cpu
        try:
            if number == EXIT_SHUTDOWN:
                cpu.old_exception.value = -1
                self._hooks.triple_fault()
                return 0
            length = self._intercepted.svm_exit(number)
        except BaseException as error:  # ours: never unwind into the engine
            self._hooks.fail(error)
            return 0
        if length is None:
            fields.exception_index.value, cpu.error_code.value, cpu.is_int.value = _GP, 0, 0
            return 1
        cpu.rip.value += length
        return 0

    def _fetch(self) -> bytes:
        """Code from the current instruction on, fewer bytes where the next page is not mapped."""
        cpu = self._cpu
        at = cpu.rip.value if cpu.hflags.value & HF_CS64 else cpu.segment(CS)[1] + cpu.rip.value
        left = PAGE - at % PAGE
        if left >= LONGEST:
            return self._window.read(at, LONGEST)
        return self._window.read(at, left) + self._window.read(at + left, LONGEST - left)

    # ---- translated code ---------------------------------------------------------------------------

    def holds_code(self, gpa: int, length: int) -> bool:
        """Translated code may come from the range."""
        return self.code.covers(gpa, length)

    def make_written(self, stale: Callable[[int, int], None]) -> Callable[[int, int], None]:
        """See `TranslatedCode.make_written`."""
        return self.code.make_written(stale)

    def forget_code(self, gpa: int, length: int) -> None:
        """Drop what was translated from the range."""
        self.code.forget(gpa, length)

    def foreign_wrote(self) -> None:
        """See `emu.cpu.native.watch`."""
        if self.foreign is not None:
            self.foreign.called()

    def watch_rings(self, used_idx: Sequence[int]) -> None:
        """See `emu.cpu.native.watch`."""
        if self.foreign is not None:
            self.foreign.watch_rings(used_idx)

    # ---- looking in --------------------------------------------------------------------------------

    def rip(self) -> int:
        """The current instruction: exact between runs, and in port hooks."""
        return int(self._cpu.rip.value)

    def mmio_rip(self) -> int:
        """The current instruction inside an MMIO callback: the engine restores it on demand, 0.5 us."""
        fields = self.fields
        LIB_HELD.cpu_restore_state_x86_64(fields.cpu, fields.mem_io_pc.value, False)
        return int(self._cpu.rip.value)

    def registers(self) -> dict[str, int]:
        """General registers, RIP, the selectors, control registers."""
        return self._cpu.registers(uc.reg_read(self._handle, uc.UC_X86_REG_EFLAGS))

    def read_virtual(self, address: int, length: int) -> bytes | None:
        """Guest memory through the current page tables."""
        return uc.vmem_read(self._handle, address, length)

    def protect(self, gpa: int, size: int, writable: bool) -> None:
        """Open or close a piece of RAM for stores."""
        uc.protect(self._handle, gpa, size, writable=writable)
        LIB_HELD.tlb_flush_x86_64(self.fields.cpu)

    def host_tsc(self) -> int:
        """RDTSC of the host."""
        return int(self._host_tsc())

    def set_tsc_offset(self, offset: int) -> None:
        """RDTSC in the guest gives the host's counter plus `offset`."""
        self._cpu.tsc_offset.value = offset & msr.MASK64

    @property
    def signals(self) -> MachineRecord:
        """The flags of the native signal handler."""
        return self.record

    def make_deadline(self) -> Alarm:
        """A POSIX timer for the calling thread."""
        return Alarm(self.record)

    @property
    def interrupts(self) -> int:
        """Interrupts delivered so far."""
        return int(self.record.interrupts)

    def close(self) -> None:
        """Free the engine; the thunks forget it first."""
        if self._handle:
            remove(self.record)
            LIB_HELD.uc_close(P(self._handle))
            self._handle = 0
