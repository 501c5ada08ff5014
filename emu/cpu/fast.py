"""The fast engine: Unicorn 2.1.4 driven through its private fields and native thunks.

Start, exceptions, interrupts, SYSCALL and MSRs are described in ARCHITECTURE.md; the fields in layout.py.
`FastEngine` raises EngineError where the library is not the one it knows, after a check of about 2 ms.
"""

import ctypes as C
import mmap
import struct
from collections.abc import Callable, Sequence
from typing import Final

from emu.cpu import library as uc
from emu.cpu import msr
from emu.cpu.alarm import Alarm
from emu.cpu.engine import EngineHooks, MmioArea, RamBlock
from emu.cpu.layout import (
    CS,
    EFLAGS_IF,
    ENV_GDT,
    ENV_IDT,
    ENV_LDT,
    ENV_SEGS,
    ENV_TR,
    HARD,
    HF_CS64,
    HF_GUEST,
    LEAVE,
    NMI,
    RAX,
    RCX,
    RDX,
    REG_NAMES,
    Fields,
)  # fmt: skip
from emu.cpu.library import LIB, LIB_HELD, NARROW, SKIP_CB, AccessPrototypes, P
from emu.cpu.native.load import MachineRecord, install, native, remove
from emu.cpu.native.watch import ForeignWatch
from emu.cpu.state import CODE16, CODE32, CODE64, CR0, CR4, DATA16, DATA32, EFER, HFLAGS, StartState
from emu.errors import EngineError

PAGE: Final = 4096
VMCB_GPA: Final = 1 << 40
"""Above all that guest page tables can reach; the engine reads the block there itself."""
_VMCB_SIZE, _MSR_BITMAP, _MSRPM_BASE_PA = 0x4000, 0x1000, 0x48

# SVM exit codes (AMD APM volume 2, appendix C), as the engine numbers them: 0x100 + code
_EXIT_CR8_READ, _EXIT_CR8_WRITE, _EXIT_MSR, _EXIT_SHUTDOWN = 0x108, 0x118, 0x17C, 0x17F
_INTERCEPT_INTR, _INTERCEPT_INIT, _INTERCEPT_MSR, _INTERCEPT_SHUTDOWN = 1 << 0, 1 << 3, 1 << 0x1C, 1 << 0x1F
_GP: Final = 13

ACK_CB = C.CFUNCTYPE(C.c_int)
EVENT_CB = C.CFUNCTYPE(C.c_int, P, C.c_uint32, P)
TSC_CALL = C.CFUNCTYPE(C.c_uint64)

LIB_HELD.tb_invalidate_phys_range_x86_64.argtypes = [P, C.c_uint64, C.c_uint64]
LIB_HELD.tb_invalidate_phys_range_x86_64.restype = None
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


class _Bell(C.Structure):
    """`struct bell` of thunks.c."""

    _fields_ = [("offset", C.c_uint64), ("count", C.c_uint64), ("one", C.c_uint64), ("fd", C.c_uint64)]


class _Doorbells(C.Structure):
    """`struct doorbells` of thunks.c."""

    _fields_ = [
        *(("python", P), ("bells", P), ("length", C.c_uint64)),
        *(("apic", P), ("cpu", P), ("eoi", C.c_uint64)),
    ]


MAX_BELLS: Final = 64


class Doorbells:
    """The native ioeventfds of one MMIO area. vCPU thread."""

    def __init__(self, base: int, size: int, callback: int) -> None:
        self.base, self.size = base, size
        self._bells = (_Bell * MAX_BELLS)()
        self._table = _Doorbells(callback, C.addressof(self._bells), 0)
        self.address = C.addressof(self._table)

    def serve_eoi(self, gpa: int, apic: int, cpu: int) -> None:
        """Let writes to the APIC's EOI register at `gpa` be served here; `apic` is its `InterruptBlock`."""
        if self.base <= gpa < self.base + self.size:
            self._table.apic, self._table.cpu, self._table.eoi = apic, cpu, gpa - self.base

    def add(self, gpa: int, fd: int) -> bool:
        """Let stores at `gpa` end at eventfd `fd`; False where the table is full."""
        used = self._table.length
        if used == MAX_BELLS:
            return False
        self._bells[used] = _Bell(gpa - self.base, 0, 1, fd)
        self._table.length = used + 1
        return True

    def remove(self, gpa: int) -> int:
        """Take one away; returns how often it rang."""
        used = self._table.length
        for i in range(used):
            if self._bells[i].offset == gpa - self.base:
                count = int(self._bells[i].count)
                self._bells[i] = self._bells[used - 1]
                self._table.length = used - 1
                return count
        return 0

    def count(self, gpa: int) -> int:
        """How often the bell at `gpa` rang."""
        for i in range(self._table.length):
            if self._bells[i].offset == gpa - self.base:
                return int(self._bells[i].count)
        return 0


class FastEngine:
    """One Unicorn CPU; see `emu.cpu.engine.Engine`. `wake_fd` ends the wait of a halted vCPU."""

    name = "fast"
    prototypes: AccessPrototypes = NARROW

    def __init__(self, ram: Sequence[RamBlock], hooks: EngineHooks, wake_fd: int) -> None:
        self._handle = uc.open_x86()
        self._hooks = hooks
        self._keep: list[object] = []
        self._ram = uc.map_ram(self._handle, ram)
        self._check_numbers(ram)
        pages = sum(size for _, size, _ in self._ram) // PAGE
        self._first_page = ram[0].address + PAGE
        # no magic `until` address
        uc.check(LIB_HELD.uc_ctl(P(self._handle), uc.UC_CTL_USE_EXITS_ON, 1), "exits")
        self.fields = fields = Fields(self._handle)
        fields.no_exit_request.value = 1
        self._code = (C.c_uint8 * pages)()
        self._has_code = memoryview(self._code).cast("B")
        self.record = MachineRecord(
            0, self._handle, fields.cpu, C.addressof(self._code), pages, wake_fd, 0, 0, 0, 1
        )
        install(self.record)
        self.foreign = ForeignWatch(self.record, ram, self._ram) if hooks.foreign_writes else None
        self.doorbells: list[Doorbells] = []
        self._begin = C.c_uint64()
        self._host_tsc = TSC_CALL(native("host_tsc"))
        self._hook_all()
        self._map_vmcb()
        for area in hooks.areas:
            self._map_area(area)
        self._request = memoryview(fields.interrupt_request).cast("B")
        self._kick = memoryview(fields.kick).cast("B").cast("H")
        self._self_check()

    # ---- set-up ------------------------------------------------------------------------------------

    def _check_numbers(self, ram: Sequence[RamBlock]) -> None:
        """The engine must know each piece by the ram_addr that `map_ram` says."""
        number_of = LIB_HELD.qemu_ram_addr_from_host_x86_64
        number_of.restype = C.c_uint64
        host = {gpa: address for block in ram for gpa, _, address in block.pieces()}
        for gpa, _, ram_addr in self._ram:
            if number_of(P(self._handle), P(host[gpa])) != ram_addr:
                raise EngineError(f"the engine's number of the RAM at {gpa:#x} is not {ram_addr:#x}")

    def _map_vmcb(self) -> None:
        self._vmcb = mmap.mmap(-1, _VMCB_SIZE)
        pointer = C.addressof(C.c_char.from_buffer(self._vmcb))
        rights = uc.UC_PROT_READ | uc.UC_PROT_WRITE
        uc.check(
            LIB_HELD.uc_mem_map_ptr(self._handle, VMCB_GPA, _VMCB_SIZE, rights, pointer), "its control block"
        )
        struct.pack_into("<Q", self._vmcb, _MSRPM_BASE_PA, VMCB_GPA + _MSR_BITMAP)
        self._vmcb[_MSR_BITMAP : _MSR_BITMAP + 0x1800] = b"\xff" * 0x1800
        for index in msr.NATIVE:
            bit = 2 * (index if index < 0x2000 else 0x2000 + index - 0xC000_0000)
            self._vmcb[_MSR_BITMAP + bit // 8] &= ~(3 << bit % 8) & 0xFF
        fields = self.fields
        fields.vmcb.value = VMCB_GPA
        fields.intercept.value = _INTERCEPT_INTR | _INTERCEPT_INIT | _INTERCEPT_MSR | _INTERCEPT_SHUTDOWN
        fields.intercept_cr_read.value = fields.intercept_cr_write.value = 1 << 8

    def _hook_all(self) -> None:
        hooks, handle, env = self._hooks, self._handle, self.fields.env
        out = self._pointer(self.prototypes.port_write(hooks.port_write))
        in_ = self._pointer(self.prototypes.port_read(hooks.port_read))
        self._ports = _Ports(env, out, in_)
        ports = C.addressof(self._ports)
        uc.hook(handle, uc.UC_HOOK_INSN, native("port_out"), uc.UC_X86_INS_OUT, ports)
        uc.hook(handle, uc.UC_HOOK_INSN, native("port_in"), uc.UC_X86_INS_IN, ports)
        cpuid = self._pointer(SKIP_CB(self._make_cpuid()))
        uc.hook(handle, uc.UC_HOOK_INSN, cpuid, uc.UC_X86_INS_CPUID)
        uc.hook(handle, uc.UC_HOOK_INSN, native("syscall_64"), uc.UC_X86_INS_SYSCALL, env)
        uc.hook(handle, uc.UC_HOOK_INSN, native("sysenter"), uc.UC_X86_INS_SYSENTER, env)
        acknowledge = self._pointer(ACK_CB(self._make_acknowledge()))
        python = self._pointer(EVENT_CB(self._event))
        record = C.addressof(self.record)
        self._events = _Events(self.fields.cpu, record, hooks.apic, acknowledge, python)
        uc.hook(handle, uc.UC_HOOK_INTR, native("event"), user=C.addressof(self._events))
        self.fields.stop_interrupt.value = 0  # #UD arrives at the same hook as the rest

    def _pointer(self, callback: object) -> int:
        """The address of a ctypes callback, kept alive as long as the engine."""
        self._keep.append(callback)
        address = C.cast(callback, P).value  # type: ignore[arg-type]  # any CFUNCTYPE object
        assert address is not None
        return address

    def _map_area(self, area: MmioArea) -> None:
        read = self._pointer(self.prototypes.read(area.read))
        write = self._pointer(self.prototypes.write(area.write))
        bells = Doorbells(area.base, area.size, write)
        self.doorbells.append(bells)
        if self._hooks.apic_eoi:
            bells.serve_eoi(self._hooks.apic_eoi, self._hooks.apic, self.fields.cpu)
        status = LIB_HELD.uc_mmio_map(
            self._handle, area.base, area.size, P(read), None, P(native("doorbell_write")), P(bells.address)
        )
        uc.check(status, f"an area at {area.base:#x}")
        # fetches from there read all ones, as on hardware, instead of ending the engine
        LIB_HELD.uc_mem_protect(P(self._handle), C.c_uint64(area.base), C.c_size_t(area.size), uc.UC_PROT_ALL)

    def doorbells_of(self, gpa: int) -> Doorbells | None:
        """The native ioeventfds of the area that `gpa` lies in."""
        for bells in self.doorbells:
            if bells.base <= gpa < bells.base + bells.size:
                return bells
        return None

    def _self_check(self) -> None:
        """Run a few instructions and compare what the private fields show with the public API.

        Real mode at page 1 of the RAM, whose bytes are put back afterwards.
        """
        page = (C.c_char * 32).from_address(self._first_page)
        saved, code = page.raw, bytes.fromhex("66b8efcdab89 f4")  # mov eax, 0x89abcdef; hlt
        page.raw = code.ljust(32, b"\0")
        self.start_at(StartState("real", PAGE))
        self.execute()
        fields, handle = self.fields, self._handle
        good = fields.regs[RAX] == uc.reg_read(handle, uc.UC_X86_REG_RAX) == 0x89ABCDEF
        good = good and fields.rip.value == uc.reg_read(handle, uc.UC_X86_REG_RIP) == PAGE + len(code)
        good = good and fields.halted.value == 1
        good = good and fields.cr[0] == uc.reg_read(handle, uc.UC_X86_REG_CR0)
        good = good and self.holds_code(PAGE, 1)  # the redirected calls reach our records
        good = good and (self.foreign is None or self.foreign.covers(self._spans(PAGE, 1)[0][0]))
        page.raw = saved
        self.forget_code(PAGE, 32)
        if not good:
            raise EngineError("the engine's private fields do not behave as those of unicorn 2.1.4")

    # ---- running -----------------------------------------------------------------------------------

    def start_at(self, state: StartState) -> None:
        """Put the CPU into `state`, all else as after INIT."""
        fields, mode = self.fields, state.mode
        code, data = {"real": (CODE16, DATA16), "protected32": (CODE32, DATA32)}.get(mode, (CODE64, DATA32))
        limit = 0xFFFF if mode == "real" else 0xFFFF_FFFF
        selectors = (0, 0) if mode == "real" else state.selectors
        for i in range(6):
            selector, flags = (selectors[0], code) if i == CS else (selectors[1], data)
            fields.set_segment(ENV_SEGS + 24 * i, selector, 0, limit, flags)
        if mode == "real":
            fields.set_segment(ENV_SEGS + 24 * CS, state.cs, state.code_base, limit, code)
        fields.set_segment(ENV_TR, 0, 0, 0xFFFF, 0x8B00)
        fields.set_segment(ENV_LDT, 0, 0, 0xFFFF, 0x8200)
        fields.set_segment(ENV_GDT, 0, state.gdt, state.selectors[1] + 7 if state.gdt else 0xFFFF, 0)
        fields.set_segment(ENV_IDT, 0, 0, 0x3FF if mode == "real" else 0, 0)
        fields.cr[0], fields.cr[2], fields.cr[3], fields.cr[4] = CR0[mode], 0, state.cr3, CR4[mode]
        fields.efer.value = EFER[mode]
        fields.hflags.value = HFLAGS[mode] | HF_GUEST
        fields.hflags2.value = 1 << 0  # GIF
        fields.eflags.value, fields.cc_src.value, fields.cc_op.value, fields.df.value = 2, 0, 1, 1
        fields.old_exception.value = -1
        for i, name in enumerate(REG_NAMES):
            fields.regs[i] = state.registers.get(name, state.registers.get("e" + name[1:], 0))
        fields.rip.value = state.rip
        fields.interrupt_request.value = 0
        LIB_HELD.tlb_flush_x86_64(fields.cpu)

    def execute(self) -> None:
        """Run until HLT, a stop or a shutdown. Raises EngineError."""
        begin = self._begin
        begin.value = self.fields.rip.value
        status = LIB.uc_emu_start(self._handle, begin, 0, 0, 0)
        if status:
            uc.check(status, f"to go on at rip {self.fields.rip.value:#x}")

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
        return bool(self.fields.eflags.value & EFLAGS_IF)

    # ---- hooks -------------------------------------------------------------------------------------

    def _make_cpuid(self) -> Callable[[int, int], int]:
        regs, cpuid, fail = self.fields.regs, self._hooks.cpuid, self._hooks.fail

        def hook(_engine: int, _user: int) -> int:
            try:
                regs[0], regs[3], regs[1], regs[2] = cpuid(regs[0] & 0xFFFF_FFFF, regs[1] & 0xFFFF_FFFF)
            except BaseException as error:  # ours: never unwind into the engine
                fail(error)
            return 1

        return hook

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
        try:
            if number == _EXIT_MSR:
                return self._msr()
            if number == _EXIT_SHUTDOWN:
                self.fields.old_exception.value = -1
                self._hooks.triple_fault()
                return 0
            if number in (_EXIT_CR8_READ, _EXIT_CR8_WRITE):
                return self._cr8(is_write=number == _EXIT_CR8_WRITE)
        except BaseException as error:  # ours: never unwind into the engine
            self._hooks.fail(error)
            return 0
        self._hooks.fail(EngineError(f"the engine left with an unknown code {number:#x}"))
        return 0

    def _msr(self) -> int:
        fields = self.fields
        regs, index = fields.regs, fields.regs[RCX] & 0xFFFF_FFFF
        if fields.error_code.value:  # WRMSR
            value = (regs[RDX] & 0xFFFF_FFFF) << 32 | regs[RAX] & 0xFFFF_FFFF
            if not self._hooks.write_msr(index, value):
                return self._raise_gp()
        else:
            found = self._hooks.read_msr(index)
            if found is None:
                return self._raise_gp()
            regs[RAX], regs[RDX] = found & 0xFFFF_FFFF, found >> 32
        fields.rip.value += self._prefixes() + 2
        return 0

    def _prefixes(self) -> int:
        """How many prefix bytes stand before the 0F of the current instruction."""
        fields = self.fields
        base = 0 if fields.hflags.value & HF_CS64 else fields.segment(ENV_SEGS + 24 * CS)[1]
        for length in range(14):
            if self.read_virtual(base + fields.rip.value + length, 1) == b"\x0f":
                return length
        raise EngineError(f"no instruction of two bytes at {fields.rip.value:#x}")

    def _raise_gp(self) -> int:
        fields = self.fields
        fields.exception_index.value, fields.error_code.value, fields.exception_is_int.value = _GP, 0, 0
        return 1

    def _cr8(self, *, is_write: bool) -> int:
        """MOV to or from CR8: optional REX, 0F 20/22, ModRM. CR8 is bits 7:4 of the task priority."""
        fields = self.fields
        code = self.read_virtual(fields.rip.value, 5) or self.read_virtual(fields.rip.value, 4)
        length, rex = 0, 0
        while code is not None and code[length] & 0xF0 in (0x40, 0xF0) and length < 2:
            rex = code[length] if code[length] & 0xF0 == 0x40 else rex
            length += 1
        if code is None or code[length] != 0x0F:
            raise EngineError(f"CR8 access at {fields.rip.value:#x} not understood")
        register = code[length + 2] & 7 | (rex & 1) << 3
        if is_write:
            value = fields.regs[register]
            if value > 0xF:
                return self._raise_gp()
            self._hooks.write_tpr(value << 4)
        else:
            fields.regs[register] = self._hooks.read_tpr() >> 4
        fields.rip.value += length + 3
        return 0

    # ---- translated code ---------------------------------------------------------------------------

    def _spans(self, gpa: int, length: int) -> list[tuple[int, int]]:
        """Where a range of RAM begins and ends as ram_addrs, piece by piece."""
        found, end = [], gpa + length
        for start, size, ram_addr in self._ram:
            if start < end and gpa < start + size:
                shift = ram_addr - start
                found.append((max(start, gpa) + shift, min(start + size, end) + shift))
                if start <= gpa and end <= start + size:
                    break
        return found

    def holds_code(self, gpa: int, length: int) -> bool:
        """Translated code may come from the range; about 0.5 us."""
        code = self._has_code
        return any(any(code[at >> 12 : (end - 1 >> 12) + 1]) for at, end in self._spans(gpa, length))

    def make_written(self, stale: Callable[[int, int], None]) -> Callable[[int, int], None]:
        """`GuestMemory.on_written`: `stale(gpa, length)` is called where the range may hold translated code.

        Runs once or twice a disk request; about 0.15 us for a page without code.
        """
        has_code, (low, size, ram_addr) = self._has_code, self._ram[0]
        high, shift = low + size, ram_addr - low

        def written(gpa: int, length: int) -> None:
            if low <= gpa < high:
                first, last = gpa + shift >> 12, gpa + length + shift - 1 >> 12
                if first == last:
                    if has_code[first]:
                        stale(gpa, length)
                    return
                pages = has_code[first : last + 1].tobytes()
                if pages.count(0) == len(pages) and gpa + length <= high:
                    return
            stale(gpa, length)

        return written

    def forget_code(self, gpa: int, length: int) -> None:
        """Drop what was translated from the range."""
        for at, end in self._spans(gpa, length):
            LIB_HELD.tb_invalidate_phys_range_x86_64(self._handle, at, end)

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
        return int(self.fields.rip.value)

    def mmio_rip(self) -> int:
        """The current instruction inside an MMIO callback: the engine restores it on demand, 0.5 us."""
        fields = self.fields
        LIB_HELD.cpu_restore_state_x86_64(fields.cpu, fields.mem_io_pc.value, False)
        return int(fields.rip.value)

    def registers(self) -> dict[str, int]:
        """General registers, RIP, the selectors, control registers."""
        fields = self.fields
        found = {name: fields.regs[i] for i, name in enumerate(REG_NAMES)}
        found["rip"] = fields.rip.value
        for i, name in enumerate(("es", "cs", "ss", "ds", "fs", "gs")):
            found[name] = fields.segment(ENV_SEGS + 24 * i)[0]
        for i in (0, 2, 3, 4):
            found[f"cr{i}"] = fields.cr[i]
        found["rflags"] = uc.reg_read(self._handle, uc.UC_X86_REG_EFLAGS)
        found["efer"] = fields.efer.value
        return found

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
        self.fields.tsc_offset.value = offset & msr.MASK64

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
