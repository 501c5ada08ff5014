"""Private fields of the Unicorn 2.1.4 wheel: where they are, and live views of them.

`Fields` is what the fast engine finds inside a running one; `CpuState`, the CPU's part of it, is also what a
context saved by the public API holds.

The engine's structures are found by their shape, not by address, and read through /proc/self/mem first, so
that a wrong pointer is an EngineError and not a crash.
"""

import ctypes as C
import os
import struct
from typing import Final

from emu.errors import EngineError

# struct uc_struct
UC_STOP_INTERRUPT, UC_CPU, UC_TCG_CONTEXT, UC_NO_EXIT_REQUEST = 224, 440, 768, 2034
# CPUState
CPU_INTERRUPT_REQUEST, CPU_ENV_PTR, CPU_ICOUNT_DECR_PTR, CPU_MEM_IO_PC = 28, 296, 304, 33144
CPU_HALTED, CPU_EXCEPTION_INDEX, CPU_UC = 33176, 33184, 33192
# CPUX86State
ENV_REGS, ENV_RIP, ENV_EFLAGS, ENV_CC_SRC, ENV_CC_OP, ENV_DF = 0, 128, 136, 152, 168, 172
ENV_HFLAGS, ENV_HFLAGS2, ENV_SEGS, ENV_LDT, ENV_TR, ENV_GDT, ENV_IDT, ENV_CR = (
    176,
    180,
    184,
    328,
    352,
    376,
    400,
    424,
)
ENV_EFER, ENV_ERROR_CODE, ENV_EXCEPTION_IS_INT, ENV_EXCEPTION_NEXT_EIP = 592, 5384, 5388, 5392
ENV_SYSENTER_CS, ENV_SYSENTER_ESP, ENV_SYSENTER_EIP = 4800, 4808, 4816
ENV_STAR, ENV_LSTAR, ENV_FMASK, ENV_TSC_AUX, ENV_OLD_EXCEPTION = 4824, 4840, 4856, 4896, 5496
ENV_VMCB, ENV_TSC_OFFSET, ENV_INTERCEPT, ENV_INTERCEPT_CR_READ, ENV_INTERCEPT_CR_WRITE = (
    5504,
    5512,
    5520,
    5528,
    5530,
)
ENV_UC: Final = 7000

REG_NAMES: Final = (
    *("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"),
    *(f"r{i}" for i in range(8, 16)),
)
RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI = range(8)
_SEGMENT_NAMES: Final = ("es", "cs", "ss", "ds", "fs", "gs")
ES, CS, SS, DS, FS, GS = range(6)

HARD: Final = 0x2
"""In byte 0 of interrupt_request: an external interrupt is to be asked for."""
NMI, LEAVE = 0x2, 0x4
"""In byte 1: an NMI is pending; INIT, which stands for "leave the engine" (thunks.c)."""
# the engine's flag words
HF_CPL, HF_INHIBIT, HF_CS32, HF_SS32, HF_ADDSEG, HF_PE = 0x3, 1 << 3, 1 << 4, 1 << 5, 1 << 6, 1 << 7
HF_LMA, HF_CS64, HF_GUEST = 1 << 14, 1 << 15, 1 << 21
HF2_GIF, HF2_NMI = 1 << 0, 1 << 2
EFLAGS_IF = 1 << 9
"""Interrupt flag; the only flag that env.eflags holds up to date at every exit."""
ARITHMETIC, DIRECTION, VM = 0x8D5, 0x400, 1 << 17
_CC_OP_EFLAGS: Final = 1
CR0_PE: Final = 1
# segment flags: the descriptor's high dword
DESC_L, DESC_B, DESC_G = 1 << 21, 1 << 22, 1 << 23

Segment = tuple[int, int, int, int]
"""Selector, base, limit, flags."""

_memory = os.open("/proc/self/mem", os.O_RDONLY | os.O_CLOEXEC)


def host_bytes(address: int, length: int) -> bytes:
    """Bytes of our own memory. Raises EngineError where there is none."""
    try:
        found = os.pread(_memory, length, address)
    except (OSError, OverflowError):
        found = b""
    if len(found) != length:
        raise EngineError(f"the engine's library is laid out in another way: nothing at {address:#x}")
    return found


def _peek(address: int) -> int | None:
    try:
        return int.from_bytes(os.pread(_memory, 8, address), "little")
    except (OSError, OverflowError):
        return None


class CpuState:
    """Live views of the CPUX86State at `address`: the engine's own, or a copy of it. vCPU thread."""

    def __init__(self, address: int) -> None:
        self.address = address

        def u64(offset: int) -> C.c_uint64:
            return C.c_uint64.from_address(address + offset)

        def i32(offset: int) -> C.c_int32:
            return C.c_int32.from_address(address + offset)

        self.regs = (C.c_uint64 * 16).from_address(address + ENV_REGS)
        self.cr = (C.c_uint64 * 5).from_address(address + ENV_CR)
        self.rip, self.eflags, self.efer = u64(ENV_RIP), u64(ENV_EFLAGS), u64(ENV_EFER)
        self.cc_src, self.cc_op, self.df = u64(ENV_CC_SRC), i32(ENV_CC_OP), i32(ENV_DF)
        self.hflags, self.hflags2 = i32(ENV_HFLAGS), i32(ENV_HFLAGS2)
        self.error_code, self.is_int = i32(ENV_ERROR_CODE), i32(ENV_EXCEPTION_IS_INT)
        self.next_rip, self.old_exception = u64(ENV_EXCEPTION_NEXT_EIP), i32(ENV_OLD_EXCEPTION)
        self.vmcb, self.tsc_offset, self.intercept = u64(ENV_VMCB), u64(ENV_TSC_OFFSET), u64(ENV_INTERCEPT)
        self.intercept_cr_read = C.c_uint16.from_address(address + ENV_INTERCEPT_CR_READ)
        self.intercept_cr_write = C.c_uint16.from_address(address + ENV_INTERCEPT_CR_WRITE)
        self.star, self.lstar, self.fmask = u64(ENV_STAR), u64(ENV_LSTAR), u64(ENV_FMASK)
        self.sysenter_cs, self.tsc_aux = u64(ENV_SYSENTER_CS), u64(ENV_TSC_AUX)
        self.sysenter_esp, self.sysenter_eip = u64(ENV_SYSENTER_ESP), u64(ENV_SYSENTER_EIP)

    # ---- segments ----------------------------------------------------------------------------------

    def segment_at(self, offset: int) -> Segment:
        """One SegmentCache by its offset."""
        data = (C.c_char * 24).from_address(self.address + offset)
        selector, base, limit, flags = struct.unpack_from("<I4xQII", data, 0)
        return selector, base, limit, flags

    def set_segment_at(self, offset: int, segment: Segment) -> None:
        """Write one SegmentCache."""
        data = (C.c_char * 24).from_address(self.address + offset)
        struct.pack_into("<I4xQII", data, 0, *segment)

    def segment(self, index: int) -> Segment:
        """ES, CS, SS, DS, FS or GS."""
        return self.segment_at(ENV_SEGS + 24 * index)

    def set_segment(self, index: int, segment: Segment) -> None:
        """The same; `fix_flags` belongs after the last."""
        self.set_segment_at(ENV_SEGS + 24 * index, segment)

    def descriptor_table(self, offset: int) -> tuple[int, int]:
        """Base and limit of GDT, IDT, LDT or TR."""
        _, base, limit, _ = self.segment_at(offset)
        return base, limit

    # ---- what is spread over several fields --------------------------------------------------------

    @property
    def interrupts_enabled(self) -> bool:
        """RFLAGS.IF."""
        return bool(self.eflags.value & EFLAGS_IF)

    @property
    def is_long(self) -> bool:
        """EFER.LMA."""
        return bool(self.hflags.value & HF_LMA)

    @property
    def is_code64(self) -> bool:
        """The code segment is one of 64 bits."""
        return bool(self.hflags.value & HF_CS64)

    @property
    def cpl(self) -> int:
        """The privilege level."""
        return self.hflags.value & HF_CPL

    def set_rflags(self, value: int) -> None:
        """Write all of RFLAGS; reading it is the engine's: the arithmetic flags have a lazy form."""
        self.cc_src.value, self.cc_op.value = value & ARITHMETIC, _CC_OP_EFLAGS
        self.df.value = -1 if value & DIRECTION else 1
        self.eflags.value = value & ~(ARITHMETIC | DIRECTION)

    def fix_flags(self, cpl: int) -> None:
        """Compute the engine's flag word anew from CS, SS, DS, ES and `cpl`."""
        hflags = self.hflags.value & ~(HF_CPL | HF_CS32 | HF_SS32 | HF_ADDSEG | HF_CS64) | cpl
        (_, ss_base, _, ss), (_, ds_base, _, _), (_, es_base, _, _) = (
            self.segment(index) for index in (SS, DS, ES)
        )
        code = self.segment(CS)[3]
        if hflags & HF_LMA and code & DESC_L:
            hflags |= HF_CS32 | HF_SS32 | HF_CS64
        else:
            hflags |= (HF_CS32 if code & DESC_B else 0) | (HF_SS32 if ss & DESC_B else 0)
            flat = self.cr[0] & CR0_PE and not self.eflags.value & VM and hflags & HF_CS32
            if not flat or ss_base or ds_base or es_base:
                hflags |= HF_ADDSEG
        self.hflags.value = hflags

    def registers(self, rflags: int) -> dict[str, int]:
        """General registers, RIP, the selectors, control registers and `rflags` by name, for reports."""
        found = {name: self.regs[i] for i, name in enumerate(REG_NAMES)}
        found["rip"] = self.rip.value
        for i, name in enumerate(_SEGMENT_NAMES):
            found[name] = self.segment(i)[0]
        for i in (0, 2, 3, 4):
            found[f"cr{i}"] = self.cr[i]
        found["rflags"], found["efer"] = rflags, self.efer.value
        return found


class Fields:
    """Live views of one engine's own private fields; `state` is its CPU's.

    Raises EngineError where the structure is another.
    """

    def __init__(self, handle: int) -> None:
        found = set()
        words = struct.unpack("<256Q", os.pread(_memory, 2048, handle))
        for word in words:
            if word > 1 << 16 and _peek(word + CPU_UC) == handle:
                found.add(word)
        if len(found) > 1 and words[UC_CPU // 8] in found:  # the memory of a closed engine looks alike
            found = {words[UC_CPU // 8]}
        if len(found) != 1:
            raise EngineError(f"the engine's CPU state: {len(found)} candidates")
        self.cpu = cpu = found.pop()
        env, decr = _peek(cpu + CPU_ENV_PTR), _peek(cpu + CPU_ICOUNT_DECR_PTR)
        if env is None or decr is None or env - decr != 16 or _peek(env + ENV_UC) != handle:
            raise EngineError("the engine's CPU state has another layout")
        self.state = CpuState(env)
        i32, u64 = C.c_int32.from_address, C.c_uint64.from_address
        self.interrupt_request = i32(cpu + CPU_INTERRUPT_REQUEST)
        self.kick = C.c_uint16.from_address(decr + 2)
        self.halted = i32(cpu + CPU_HALTED)
        self.exception_index = i32(cpu + CPU_EXCEPTION_INDEX)
        self.mem_io_pc = u64(cpu + CPU_MEM_IO_PC)
        self.stop_interrupt = u64(handle + UC_STOP_INTERRUPT)
        self.no_exit_request = C.c_uint8.from_address(handle + UC_NO_EXIT_REQUEST)
