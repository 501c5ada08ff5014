"""The SVM control block (VMCB) by which the engine leaves at HLT, MSRs, CR8 and the like, as a guest would.

Source: AMD APM volume 2, 15.10 and 15.11 (intercepts, permission map), appendix B (layout), C (exit codes).
"""

import ctypes as C
import mmap
import struct
from typing import Final

from emu.cpu import library as uc
from emu.cpu.layout import CpuState
from emu.cpu.msr import NATIVE

VMCB_GPA: Final = 1 << 40
"""Above all that guest page tables can reach; the engine reads the block there itself."""
_SIZE, _MSR_BITMAP, _BITMAP_BYTES, _MSRPM_BASE_PA = 0x4000, 0x1000, 0x1800, 0x48
_CR8: Final = 1 << 8

INTERCEPT_INTR, INTERCEPT_INIT = 1 << 0x00, 1 << 0x03
INTERCEPT_HLT, INTERCEPT_MSR, INTERCEPT_SHUTDOWN = 1 << 0x18, 1 << 0x1C, 1 << 0x1F
EXIT: Final = 0x100
"""An SVM exit is this plus its code; exceptions are below."""
EXIT_CR8_READ, EXIT_CR8_WRITE, EXIT_HLT, EXIT_MSR, EXIT_SHUTDOWN = 0x108, 0x118, 0x178, 0x17C, 0x17F


class ControlBlock:
    """The block of one engine, mapped at VMCB_GPA; lives as long as the engine. Raises EngineError."""

    def __init__(self, handle: int) -> None:
        self._block = block = mmap.mmap(-1, _SIZE)
        address = C.addressof(C.c_char.from_buffer(block))
        uc.map_memory(handle, VMCB_GPA, _SIZE, uc.UC_PROT_READ | uc.UC_PROT_WRITE, address)
        struct.pack_into("<Q", block, _MSRPM_BASE_PA, VMCB_GPA + _MSR_BITMAP)
        block[_MSR_BITMAP : _MSR_BITMAP + _BITMAP_BYTES] = b"\xff" * _BITMAP_BYTES
        for index in NATIVE:
            bit = 2 * (index if index < 0x2000 else 0x2000 + index - 0xC000_0000)
            block[_MSR_BITMAP + bit // 8] &= ~(3 << bit % 8) & 0xFF

    def intercept(self, cpu: CpuState, events: int) -> None:
        """Leave at `events` (INTERCEPT_ bits) and at each access to CR8; before the first instruction."""
        cpu.vmcb.value, cpu.intercept.value = VMCB_GPA, events
        cpu.intercept_cr_read.value = cpu.intercept_cr_write.value = _CR8
