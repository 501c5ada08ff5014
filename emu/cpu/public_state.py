"""The CPU state of an engine through Unicorn's public API: a saved context, looked into and put back.

The context of release 2.1.4 is a header and then the engine's own CPU state (the offsets of layout.py);
`Context.check` compares it with `uc_reg_read` before anything trusts it.
"""

import ctypes as C
import struct
from typing import Final

from emu.cpu import library as uc
from emu.cpu.layout import (
    CS,
    DS,
    EFLAGS_IF,
    ENV_CC_OP,
    ENV_CC_SRC,
    ENV_CR,
    ENV_DF,
    ENV_EFER,
    ENV_EFLAGS,
    ENV_ERROR_CODE,
    ENV_EXCEPTION_IS_INT,
    ENV_HFLAGS,
    ENV_HFLAGS2,
    ENV_INTERCEPT,
    ENV_INTERCEPT_CR_READ,
    ENV_INTERCEPT_CR_WRITE,
    ENV_OLD_EXCEPTION,
    ENV_REGS,
    ENV_RIP,
    ENV_SEGS,
    ENV_VMCB,
    ES,
    HF_CS64,
    SS,
)
from emu.cpu.library import LIB_HELD, P
from emu.errors import EngineError

_HEADER: Final = 40
_SIZE: Final = _HEADER + 5568
ENV_EXCEPTION_NEXT_EIP: Final = 5392
ENV_SYSENTER_CS, ENV_SYSENTER_ESP, ENV_SYSENTER_EIP = 4800, 4808, 4816
ENV_STAR, ENV_LSTAR, ENV_FMASK, ENV_TSC_AUX = 4824, 4840, 4856, 4896

# the engine's flag word
HF_CPL, HF_INHIBIT, HF_CS32, HF_SS32, HF_ADDSEG, HF_PE = 0x3, 1 << 3, 1 << 4, 1 << 5, 1 << 6, 1 << 7
HF_LMA: Final = 1 << 14
HF2_NMI: Final = 1 << 2
# segment flags: the descriptor's high dword
DESC_L, DESC_B, DESC_G = 1 << 21, 1 << 22, 1 << 23

ARITHMETIC, DIRECTION, VM = 0x8D5, 0x400, 1 << 17
_CC_OP_EFLAGS: Final = 1
CR0_PE: Final = 1

_C_U64, _C_I32, _C_U16 = C.c_uint64, C.c_int32, C.c_uint16

LIB_HELD.uc_context_size.argtypes = [P]
LIB_HELD.uc_context_size.restype = C.c_size_t
LIB_HELD.uc_context_alloc.argtypes = [P, P]
LIB_HELD.uc_context_save.argtypes = [P, P]
LIB_HELD.uc_context_restore.argtypes = [P, P]
LIB_HELD.uc_context_free.argtypes = [P]

Segment = tuple[int, int, int, int]
"""Selector, base, limit, flags."""


class Context:
    """A copy of the CPU state; `load` takes it, `store` puts it back. vCPU thread."""

    def __init__(self, handle: int) -> None:
        self._handle = handle
        size = LIB_HELD.uc_context_size(handle)
        if size != _SIZE:
            raise EngineError(f"the engine's context has {size} bytes, not the {_SIZE} of unicorn 2.1.4")
        pointer = P()
        uc.check(LIB_HELD.uc_context_alloc(handle, C.byref(pointer)), "a context")
        assert pointer.value is not None
        self._pointer = pointer.value
        self._base = base = pointer.value + _HEADER
        u64, i32, u16 = _C_U64.from_address, _C_I32.from_address, _C_U16.from_address
        self.regs = (_C_U64 * 16).from_address(base + ENV_REGS)
        self.cr = (_C_U64 * 5).from_address(base + ENV_CR)
        self.rip, self.eflags, self.efer = u64(base + ENV_RIP), u64(base + ENV_EFLAGS), u64(base + ENV_EFER)
        self.cc_src, self.cc_op, self.df = (
            u64(base + ENV_CC_SRC),
            i32(base + ENV_CC_OP),
            i32(base + ENV_DF),
        )
        self.hflags, self.hflags2 = i32(base + ENV_HFLAGS), i32(base + ENV_HFLAGS2)
        self.error_code, self.is_int = i32(base + ENV_ERROR_CODE), i32(base + ENV_EXCEPTION_IS_INT)
        self.next_rip, self.old_exception = u64(base + ENV_EXCEPTION_NEXT_EIP), i32(base + ENV_OLD_EXCEPTION)
        self.vmcb, self.intercept = u64(base + ENV_VMCB), u64(base + ENV_INTERCEPT)
        self.intercept_cr_read = u16(base + ENV_INTERCEPT_CR_READ)
        self.intercept_cr_write = u16(base + ENV_INTERCEPT_CR_WRITE)
        self.star, self.lstar, self.fmask = u64(base + ENV_STAR), u64(base + ENV_LSTAR), u64(base + ENV_FMASK)
        self.sysenter_cs = _C_U64.from_address(base + ENV_SYSENTER_CS)
        self.sysenter_esp, self.sysenter_eip = u64(base + ENV_SYSENTER_ESP), u64(base + ENV_SYSENTER_EIP)
        self.tsc_aux = u64(base + ENV_TSC_AUX)
        self._value = _C_U64()
        self._value_at = C.addressof(self._value)

    def check(self) -> None:
        """Compare a few registers at their offsets with the API's answers. Raises EngineError."""
        handle, good = self._handle, True
        for i, register in enumerate((uc.UC_X86_REG_RAX, uc.UC_X86_REG_RIP)):
            value = _C_U64(0x1234_5678_9ABC + i)
            uc.check(LIB_HELD.uc_reg_write(handle, register, C.addressof(value)), "a register")
        self.load()
        good = self.regs[0] == 0x1234_5678_9ABC and self.rip.value == 0x1234_5678_9ABD
        good = good and self.cr[0] == uc.reg_read(handle, uc.UC_X86_REG_CR0)
        self.regs[0], self.cr[3] = 0x55, 0x7000
        self.store()
        good = good and uc.reg_read(handle, uc.UC_X86_REG_RAX) == 0x55
        good = good and uc.reg_read(handle, uc.UC_X86_REG_CR3) == 0x7000
        if not good:
            raise EngineError("the engine's context does not look like that of unicorn 2.1.4")

    def load(self) -> None:
        """Take the CPU's state."""
        LIB_HELD.uc_context_save(self._handle, self._pointer)

    def store(self) -> None:
        """Put it back."""
        LIB_HELD.uc_context_restore(self._handle, self._pointer)

    def free(self) -> None:
        """Give the memory back."""
        LIB_HELD.uc_context_free(self._pointer)

    # ---- what is spread over several fields --------------------------------------------------------

    def register(self, number: int) -> int:
        """One register of the CPU itself by its UC_X86_REG number; 0.3 us."""
        LIB_HELD.uc_reg_read(self._handle, number, self._value_at)
        return self._value.value

    def rflags(self) -> int:
        """All of RFLAGS, of the CPU itself: the copy has the arithmetic flags in a lazy form."""
        return self.register(uc.UC_X86_REG_EFLAGS) & 0xFFFF_FFFF | 2

    def set_rflags(self, value: int) -> None:
        """Write all of RFLAGS to the copy."""
        self.cc_src.value, self.cc_op.value = value & ARITHMETIC, _CC_OP_EFLAGS
        self.df.value = -1 if value & DIRECTION else 1
        self.eflags.value = value & ~(ARITHMETIC | DIRECTION)

    @property
    def interrupts_enabled(self) -> bool:
        """RFLAGS.IF of the copy."""
        return bool(self.eflags.value & EFLAGS_IF)

    @property
    def is_long(self) -> bool:
        """EFER.LMA."""
        return bool(self.hflags.value & HF_LMA)

    @property
    def cpl(self) -> int:
        """The privilege level."""
        return self.hflags.value & HF_CPL

    def descriptor_table(self, offset: int) -> tuple[int, int]:
        """Base and limit of GDT, IDT, LDT or TR."""
        _, base, limit, _ = self.segment_at(offset)
        return base, limit

    def segment_at(self, offset: int) -> Segment:
        """One SegmentCache by its offset."""
        data = (C.c_char * 24).from_address(self._base + offset)
        selector, base, limit, flags = struct.unpack_from("<I4xQII", data, 0)
        return selector, base, limit, flags

    def set_segment_at(self, offset: int, segment: Segment) -> None:
        """Write one SegmentCache."""
        data = (C.c_char * 24).from_address(self._base + offset)
        struct.pack_into("<I4xQII", data, 0, *segment)

    def segment(self, index: int) -> Segment:
        """ES, CS, SS, DS, FS or GS."""
        return self.segment_at(ENV_SEGS + 24 * index)

    def set_segment(self, index: int, segment: Segment) -> None:
        """The same; `fix_flags` belongs after the last."""
        self.set_segment_at(ENV_SEGS + 24 * index, segment)

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
