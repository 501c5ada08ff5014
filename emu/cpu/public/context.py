"""The CPU state of an engine through Unicorn's public API: a saved context, looked into and put back.

The context of release 2.1.4 is a header and then the engine's own CPU state (the offsets of layout.py);
`Context.check` compares it with `uc_reg_read` before anything trusts it.
"""

import ctypes as C
from typing import Final

from emu.cpu import library as uc
from emu.cpu.layout import CpuState
from emu.cpu.library import LIB_HELD, P
from emu.errors import EngineError

_HEADER: Final = 40
_SIZE: Final = _HEADER + 5568

LIB_HELD.uc_context_size.argtypes = [P]
LIB_HELD.uc_context_size.restype = C.c_size_t
LIB_HELD.uc_context_alloc.argtypes = [P, P]
LIB_HELD.uc_context_save.argtypes = [P, P]
LIB_HELD.uc_context_restore.argtypes = [P, P]
LIB_HELD.uc_context_free.argtypes = [P]


class Context:
    """A copy of the CPU state, `state`; `load` takes it, `store` puts it back. vCPU thread."""

    def __init__(self, handle: int) -> None:
        self._handle = handle
        size = LIB_HELD.uc_context_size(handle)
        if size != _SIZE:
            raise EngineError(f"the engine's context has {size} bytes, not the {_SIZE} of unicorn 2.1.4")
        pointer = P()
        uc.check(LIB_HELD.uc_context_alloc(handle, C.byref(pointer)), "a context")
        assert pointer.value is not None
        self._pointer = pointer.value
        self.state = CpuState(pointer.value + _HEADER)
        self._value = C.c_uint64()
        self._value_at = C.addressof(self._value)

    def check(self) -> None:
        """Compare a few registers at their offsets with the API's answers. Raises EngineError."""
        handle, state = self._handle, self.state
        for i, register in enumerate((uc.UC_X86_REG_RAX, uc.UC_X86_REG_RIP)):
            value = C.c_uint64(0x1234_5678_9ABC + i)
            uc.check(LIB_HELD.uc_reg_write(handle, register, C.addressof(value)), "a register")
        self.load()
        good = state.regs[0] == 0x1234_5678_9ABC and state.rip.value == 0x1234_5678_9ABD
        good = good and state.cr[0] == uc.reg_read(handle, uc.UC_X86_REG_CR0)
        state.regs[0], state.cr[3] = 0x55, 0x7000
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

    def register(self, number: int) -> int:
        """One register of the CPU itself by its UC_X86_REG number; 0.3 us."""
        LIB_HELD.uc_reg_read(self._handle, number, self._value_at)
        return self._value.value

    def rflags(self) -> int:
        """All of RFLAGS, of the CPU itself: the copy has the arithmetic flags in a lazy form."""
        return self.register(uc.UC_X86_REG_EFLAGS) & 0xFFFF_FFFF | 2
