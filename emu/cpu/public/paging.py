"""Linear addresses to bytes, as the CPU's own accesses to descriptor tables and stacks see them.

Source: Intel SDM volume 3A, chapter 4 (paging).
"""

import ctypes as C
import struct
from collections.abc import Sequence
from typing import Final

from emu.cpu.engine import RamBlock
from emu.cpu.intercepted import LONGEST
from emu.cpu.layout import CS, CpuState
from emu.cpu.msr import MASK64

PAGE: Final = 4096
PF: Final = 14
_P, _RW, _US, _A, _D, _PS = 1, 2, 4, 0x20, 0x40, 0x80
_CR0_PG, _CR0_WP, _CR4_PSE, _CR4_PAE = 1 << 31, 1 << 16, 1 << 4, 1 << 5
_EFER_LMA: Final = 1 << 10
_ADDRESS: Final = 0x000F_FFFF_FFFF_F000
_PF_WRITE, _PF_USER = 2, 4


class CpuFault(Exception):  # noqa: N818 - an exception of the guest's CPU
    """Raised while an event is delivered: the guest gets another exception instead."""

    def __init__(self, vector: int, error: int) -> None:
        super().__init__(f"vector {vector}, error code {error:#x}")
        self.vector, self.error = vector, error


class Paging:
    """Guest memory by linear address, with the page tables of `cpu`. vCPU thread."""

    def __init__(self, ram: Sequence[RamBlock], cpu: CpuState) -> None:
        self._cpu = cpu
        self._blocks = [
            (block.gpa, block.size, memoryview((C.c_char * block.size).from_address(block.address)).cast("B"))
            for block in ram
        ]

    def release(self) -> None:
        """Let the memory go."""
        for _, _, view in self._blocks:
            view.release()
        self._blocks = []

    # ---- physical ----------------------------------------------------------------------------------

    def read_physical(self, gpa: int, length: int) -> bytes:
        """Bytes of one page; all ones where no RAM is."""
        for base, size, view in self._blocks:
            if base <= gpa and gpa + length <= base + size:
                return bytes(view[gpa - base : gpa - base + length])
        return b"\xff" * length

    def write_physical(self, gpa: int, data: bytes) -> None:
        """Write bytes of one page; lost where no RAM is."""
        for base, size, view in self._blocks:
            if base <= gpa and gpa + len(data) <= base + size:
                view[gpa - base : gpa - base + len(data)] = data

    # ---- linear ------------------------------------------------------------------------------------

    def translate(self, linear: int, *, write: bool = False, user: bool = False) -> int:
        """The guest-physical address. Raises CpuFault for a page fault, CR2 set in the cpu."""
        cpu = self._cpu
        if not cpu.cr[0] & _CR0_PG:
            return linear & 0xFFFF_FFFF
        if cpu.efer.value & _EFER_LMA:
            return self._walk(linear, cpu.cr[3] & _ADDRESS, 4, write=write, user=user)
        linear &= 0xFFFF_FFFF
        if cpu.cr[4] & _CR4_PAE:
            return self._walk(linear, cpu.cr[3] & 0xFFFF_FFE0, 3, write=write, user=user)
        return self._walk32(linear, write=write, user=user)

    def _walk(self, linear: int, table: int, levels: int, *, write: bool, user: bool) -> int:
        rights, steps = _RW | _US, []
        for level in range(levels - 1, -1, -1):
            at = table + 8 * (linear >> 12 + 9 * level & (3 if levels == 3 and level == 2 else 511))
            entry = int.from_bytes(self.read_physical(at, 8), "little")
            if not entry & _P:
                raise self._fault(linear, 0, write=write, user=user)
            if levels == 4 or level < 2:
                rights &= entry
            steps.append((at, entry))
            large = level and entry & _PS and level < levels - (levels == 4)
            if not level or large:
                self._check(linear, rights, write=write, user=user)
                self._mark(steps, 8, write=write, skip_first=levels == 3)
                offset = (1 << 12 + 9 * level) - 1
                return (entry & _ADDRESS & ~offset) | linear & offset
            table = entry & _ADDRESS
        raise AssertionError

    def _walk32(self, linear: int, *, write: bool, user: bool) -> int:
        cpu = self._cpu
        at = (cpu.cr[3] & 0xFFFF_F000) + 4 * (linear >> 22)
        entry = int.from_bytes(self.read_physical(at, 4), "little")
        if not entry & _P:
            raise self._fault(linear, 0, write=write, user=user)
        rights, steps = entry & (_RW | _US), [(at, entry)]
        if entry & _PS and cpu.cr[4] & _CR4_PSE:
            self._check(linear, rights, write=write, user=user)
            self._mark(steps, 4, write=write)
            return (entry & 0xFFC0_0000 | (entry & 0x1F_E000) << 19) | linear & 0x3F_FFFF
        at = (entry & 0xFFFF_F000) + 4 * (linear >> 12 & 1023)
        entry = int.from_bytes(self.read_physical(at, 4), "little")
        if not entry & _P:
            raise self._fault(linear, 0, write=write, user=user)
        steps.append((at, entry))
        self._check(linear, rights & entry, write=write, user=user)
        self._mark(steps, 4, write=write)
        return entry & 0xFFFF_F000 | linear & 0xFFF

    def _check(self, linear: int, rights: int, *, write: bool, user: bool) -> None:
        protected = write and not rights & _RW and (user or self._cpu.cr[0] & _CR0_WP)
        if protected or (user and not rights & _US):
            raise self._fault(linear, _P, write=write, user=user)

    def _mark(
        self, steps: list[tuple[int, int]], size: int, *, write: bool, skip_first: bool = False
    ) -> None:
        """Set the accessed and dirty bits that are missing."""
        last = len(steps) - 1
        for i, (at, entry) in enumerate(steps):
            wanted = entry | _A | (_D if write and i == last else 0)
            if wanted != entry and not (skip_first and i == 0):
                self.write_physical(at, struct.pack("<Q", wanted)[:size])

    def _fault(self, linear: int, present: int, *, write: bool, user: bool) -> CpuFault:
        self._cpu.cr[2] = linear
        return CpuFault(PF, present | (_PF_WRITE if write else 0) | (_PF_USER if user else 0))

    def read(self, linear: int, length: int) -> bytes:
        """Read as the CPU itself does (supervisor). Raises CpuFault."""
        found = b""
        while length:
            part = min(length, PAGE - linear % PAGE)
            found += self.read_physical(self.translate(linear), part)
            linear, length = linear + part, length - part
        return found

    def mapped(self, linear: int, length: int) -> bytes:
        """As much of a range as is mapped, page by page; no fault, and CR2 stays."""
        found, saved = b"", self._cpu.cr[2]
        try:
            while length:
                part = min(length, PAGE - linear % PAGE)
                found += self.read(linear, part)
                linear, length = linear + part & MASK64, length - part
        except CpuFault:
            self._cpu.cr[2] = saved
        return found

    def code(self) -> bytes:
        """LONGEST bytes from the current instruction on, fewer at the end of what is mapped."""
        return self.mapped(self._cpu.segment(CS)[1] + self._cpu.rip.value & MASK64, LONGEST)

    def write(self, linear: int, data: bytes, *, user: bool = False) -> None:
        """Write all or nothing. Raises CpuFault."""
        pieces = []
        while data:
            part = min(len(data), PAGE - linear % PAGE)
            pieces.append((self.translate(linear, write=True, user=user), data[:part]))
            linear, data = linear + part, data[part:]
        for gpa, piece in pieces:
            self.write_physical(gpa, piece)
