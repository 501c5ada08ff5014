"""Translated code: which pages of RAM it comes from, and how to drop it, by the engine's own numbers of them.

The thunks keep one byte a page (`has_code` of thunks.c); page n is ram_addr n * 4096.
"""

import ctypes as C
from collections.abc import Callable, Sequence
from typing import Final

from emu.cpu.engine import RamBlock
from emu.cpu.library import LIB_HELD, P
from emu.errors import EngineError

PAGE: Final = 4096

LIB_HELD.tb_invalidate_phys_range_x86_64.argtypes = [P, C.c_uint64, C.c_uint64]
LIB_HELD.tb_invalidate_phys_range_x86_64.restype = None
LIB_HELD.qemu_ram_addr_from_host_x86_64.argtypes = [P, P]
LIB_HELD.qemu_ram_addr_from_host_x86_64.restype = C.c_uint64


class TranslatedCode:
    """What one engine has translated; `numbered` is what `map_ram` said of `ram`.

    `address` and `pages` are the table for the thunks. Raises EngineError where the engine numbers the pieces
    in another way.
    """

    def __init__(
        self, handle: int, ram: Sequence[RamBlock], numbered: Sequence[tuple[int, int, int]]
    ) -> None:
        self._handle, self.pieces = handle, numbered
        self._check_numbers(ram)
        self.pages = sum(size for _, size, _ in numbered) // PAGE
        self._table = (C.c_uint8 * self.pages)()
        self.address = C.addressof(self._table)
        self._has_code = memoryview(self._table).cast("B")

    def _check_numbers(self, ram: Sequence[RamBlock]) -> None:
        """The engine must know each piece by the ram_addr that `map_ram` says."""
        host = {gpa: address for block in ram for gpa, _, address in block.pieces()}
        for gpa, _, ram_addr in self.pieces:
            if LIB_HELD.qemu_ram_addr_from_host_x86_64(self._handle, host[gpa]) != ram_addr:
                raise EngineError(f"the engine's number of the RAM at {gpa:#x} is not {ram_addr:#x}")

    def spans(self, gpa: int, length: int) -> list[tuple[int, int]]:
        """Where a range of RAM begins and ends as ram_addrs, piece by piece."""
        found, end = [], gpa + length
        for start, size, ram_addr in self.pieces:
            if start < end and gpa < start + size:
                shift = ram_addr - start
                found.append((max(start, gpa) + shift, min(start + size, end) + shift))
                if start <= gpa and end <= start + size:
                    break
        return found

    def covers(self, gpa: int, length: int) -> bool:
        """Translated code may come from the range; any thread; about 0.5 us."""
        code = self._has_code
        return any(any(code[at >> 12 : (end - 1 >> 12) + 1]) for at, end in self.spans(gpa, length))

    def make_written(self, stale: Callable[[int, int], None]) -> Callable[[int, int], None]:
        """`GuestMemory.on_written`: `stale(gpa, length)` is called where the range may hold translated code.

        Runs once or twice a disk request; about 0.15 us for a page without code.
        """
        has_code, (low, size, ram_addr) = self._has_code, self.pieces[0]
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

    def forget(self, gpa: int, length: int) -> None:
        """Drop what was translated from the range; the vCPU stands still or this is its thread."""
        for at, end in self.spans(gpa, length):
            LIB_HELD.tb_invalidate_phys_range_x86_64(self._handle, at, end)
