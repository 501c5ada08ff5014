"""Code that other processes change: what the engine's blocks were made of, for the thunks to compare.

A back-end of vhost-user writes the guest's memory by itself, and nobody can say which pages. A guest that
executes what such a device has read maps it first, so the engine's TLB is filled anew: each entry that allows
execution is then checked (`check_page` of thunks.c). The 64-byte lines that blocks were made of are compared
with a copy from when they were made, byte by byte; blocks of lines that differ are dropped. A guest that has
no NX in force (paging off, firmware's page tables) need not map anything: its TLB is emptied at each
interrupt.

A back-end answers a request only after it has written: where no used index of its rings has moved since a
page was checked, there is nothing to compare, so a machine whose disk rests pays little.

Not seen: code that a device writes over code while both lie in an executable mapping that is never flushed,
in a guest that polls without interrupts, or that has NX in force and still keeps DMA buffers executable; and
a write into a block in the microseconds between its translation and the copy.
"""

import ctypes as C
import mmap
from collections.abc import Sequence
from typing import Final

from emu.cpu.engine import RamBlock
from emu.cpu.layout import UC_TCG_CONTEXT, host_bytes
from emu.cpu.native.load import MachineRecord, watch
from emu.errors import EngineError

_PAGE, _COVERED_BYTES, _MAX_RINGS = 4096, 24, 256
_UNSEEN: Final = 1 << 16
"""What no used index is."""
_MAP_NORESERVE: Final = 0x4000
_MAP: Final = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE


class _Piece(C.Structure):
    """`struct piece` of thunks.c."""

    _fields_ = [("start", C.c_uint64), ("size", C.c_uint64), ("host", C.c_uint64)]


class _Ring(C.Structure):
    """`struct ring` of thunks.c."""

    _fields_ = [("used_idx", C.c_uint64), ("seen", C.c_uint64)]


class _Watch(C.Structure):
    """`struct watch` of thunks.c."""

    checks: int
    changes: int
    rings: int
    ring_count: int
    is_known: int
    calls: int
    epoch: int

    _fields_ = [
        *(("tcg", C.c_uint64), ("pieces", C.c_uint64), ("count", C.c_uint64), ("copy", C.c_uint64)),
        *(("covered", C.c_uint64), ("pages", C.c_uint64), ("checks", C.c_uint64), ("changes", C.c_uint64)),
        *(("rings", C.c_uint64), ("ring_count", C.c_uint64), ("is_known", C.c_uint64)),
        *(("calls", C.c_uint64), ("seen", C.c_uint64), ("epoch", C.c_uint64)),
    ]


class ForeignWatch:
    """Watches the RAM of one engine, from before its first instruction on.

    `numbered` are the pieces of `blocks` as (gpa, size, ram_addr). Costs 4 KiB of host memory for each page
    of code. Raises EngineError.
    """

    def __init__(
        self, record: MachineRecord, blocks: Sequence[RamBlock], numbered: Sequence[tuple[int, int, int]]
    ) -> None:
        self._places = [piece for block in blocks for piece in block.pieces()]
        host = {gpa: address for gpa, _, address in self._places}
        pieces = [_Piece(ram_addr, size, host[gpa]) for gpa, size, ram_addr in numbered]
        end = max(ram_addr + size for _, size, ram_addr in numbered)
        self._pieces = (_Piece * len(pieces))(*pieces)
        self._copy, self._covered = _zeros(end), _zeros(end // _PAGE * _COVERED_BYTES)
        tcg = int.from_bytes(host_bytes(record.uc + UC_TCG_CONTEXT, 8), "little")
        copy, covered = (C.addressof(C.c_char.from_buffer(area)) for area in (self._copy, self._covered))
        pieces_at = C.addressof(self._pieces)
        self._rings = (_Ring * _MAX_RINGS)()
        self._watch = _Watch(tcg, pieces_at, len(pieces), copy, covered, end // _PAGE)
        self._watch.rings = C.addressof(self._rings)
        watch(record, C.addressof(self._watch))

    def watch_rings(self, used_idx: Sequence[int]) -> None:
        """Only the used indexes at these guest addresses, and `called`, tell of writes. vCPU thread."""
        watch, places = self._watch, [self._address(gpa) for gpa in used_idx]
        watch.ring_count, watch.is_known = 0, len(places) <= _MAX_RINGS and None not in places
        if watch.is_known:
            for ring, place in zip(self._rings, places, strict=False):
                ring.used_idx, ring.seen = place, _UNSEEN
            watch.ring_count = len(places)
        watch.calls += 1  # those before may have moved unseen

    def _address(self, gpa: int) -> int | None:
        """Where two bytes of RAM are in this process."""
        for start, size, address in self._places:
            if start <= gpa < start + size and not gpa % 2:
                return address + gpa - start
        return None

    def called(self) -> None:
        """A process that writes has interrupted the guest; any thread that holds the GIL."""
        self._watch.calls += 1

    def covers(self, ram_addr: int) -> bool:
        """Blocks were made of the 64 bytes there."""
        line = ram_addr // 64
        return bool(self._covered[line // 64 * _COVERED_BYTES + line % 64 // 8] & 1 << line % 8)

    @property
    def checks(self) -> int:
        """Pages of code that were compared."""
        return self._watch.checks

    @property
    def changes(self) -> int:
        """Those among them where blocks were dropped."""
        return self._watch.changes


def _zeros(size: int) -> mmap.mmap:
    """Memory that the host gives page by page, as it is touched."""
    try:
        area = mmap.mmap(-1, size, flags=_MAP)
    except OSError as error:
        raise EngineError(f"{size >> 20} MiB of address space to watch memory: {error}") from None
    area.madvise(mmap.MADV_NOHUGEPAGE)
    return area
