"""Doorbells without Python: stores that count and write an eventfd in `doorbell_write` of thunks.c."""

import ctypes as C
from typing import Final

from emu.cpu.library import P

MAX_BELLS: Final = 64


class _Bell(C.Structure):
    """`struct bell` of thunks.c."""

    _fields_ = [("offset", C.c_uint64), ("count", C.c_uint64), ("one", C.c_uint64), ("fd", C.c_uint64)]


class _Table(C.Structure):
    """`struct doorbells` of thunks.c."""

    _fields_ = [
        *(("python", P), ("bells", P), ("length", C.c_uint64)),
        *(("apic", P), ("cpu", P), ("eoi", C.c_uint64)),
    ]


class Doorbells:
    """The native ioeventfds of one MMIO area; other stores go on to `callback`. vCPU thread.

    `address` is what `doorbell_write` is given.
    """

    def __init__(self, base: int, size: int, callback: int) -> None:
        self.base, self.size = base, size
        self._bells = (_Bell * MAX_BELLS)()
        self._table = _Table(callback, C.addressof(self._bells), 0)
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
