"""Private fields of the Unicorn 2.1.4 wheel: where they are, and live views of them.

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
ENV_EFER, ENV_ERROR_CODE, ENV_EXCEPTION_IS_INT, ENV_OLD_EXCEPTION = 592, 5384, 5388, 5496
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
ES, CS, SS, DS, FS, GS = range(6)

HARD: Final = 0x2
"""In byte 0 of interrupt_request: an external interrupt is to be asked for."""
NMI, LEAVE = 0x2, 0x4
"""In byte 1: an NMI is pending; INIT, which stands for "leave the engine" (thunks.c)."""
HF_CS64, HF_GUEST = 1 << 15, 1 << 21
HF2_NMI = 1 << 2
EFLAGS_IF = 1 << 9
"""Interrupt flag; the only flag that env.eflags holds up to date at every exit."""

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


class Fields:
    """Live views of one engine's private fields. Raises EngineError where the structure is another."""

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
        self.env = env
        i32, u64 = C.c_int32.from_address, C.c_uint64.from_address
        self.interrupt_request = i32(cpu + CPU_INTERRUPT_REQUEST)
        self.kick = C.c_uint16.from_address(decr + 2)
        self.halted = i32(cpu + CPU_HALTED)
        self.exception_index = i32(cpu + CPU_EXCEPTION_INDEX)
        self.mem_io_pc = u64(cpu + CPU_MEM_IO_PC)
        self.stop_interrupt = u64(handle + UC_STOP_INTERRUPT)
        self.no_exit_request = C.c_uint8.from_address(handle + UC_NO_EXIT_REQUEST)
        self.regs = (C.c_uint64 * 16).from_address(env + ENV_REGS)
        self.cr = (C.c_uint64 * 5).from_address(env + ENV_CR)
        self.rip, self.eflags, self.efer = u64(env + ENV_RIP), u64(env + ENV_EFLAGS), u64(env + ENV_EFER)
        self.hflags, self.hflags2 = i32(env + ENV_HFLAGS), i32(env + ENV_HFLAGS2)
        self.cc_src, self.cc_op, self.df = u64(env + ENV_CC_SRC), i32(env + ENV_CC_OP), i32(env + ENV_DF)
        self.error_code, self.exception_is_int = i32(env + ENV_ERROR_CODE), i32(env + ENV_EXCEPTION_IS_INT)
        self.old_exception = i32(env + ENV_OLD_EXCEPTION)
        self.vmcb, self.tsc_offset, self.intercept = (
            u64(env + ENV_VMCB),
            u64(env + ENV_TSC_OFFSET),
            u64(env + ENV_INTERCEPT),
        )
        self.intercept_cr_read = C.c_uint16.from_address(env + ENV_INTERCEPT_CR_READ)
        self.intercept_cr_write = C.c_uint16.from_address(env + ENV_INTERCEPT_CR_WRITE)

    def set_segment(self, offset: int, selector: int, base: int, limit: int, flags: int) -> None:
        """Write one SegmentCache at `offset` of env; `flags` is the descriptor's high dword."""
        data = (C.c_char * 24).from_address(self.env + offset)
        struct.pack_into("<I4xQII", data, 0, selector, base, limit, flags)

    def segment(self, offset: int) -> tuple[int, int, int, int]:
        """Read one SegmentCache: selector, base, limit, flags."""
        data = (C.c_char * 24).from_address(self.env + offset)
        selector, base, limit, flags = struct.unpack_from("<I4xQII", data, 0)
        return selector, base, limit, flags
