"""Load the machine code and lead the engine to it.

One copy a process. The engine's library is changed at six places (GOT slots), once, when the first fast
engine is made: they cure its handling of pages that hold translated code. One more is changed for the first
machine whose memory other processes write. An engine without a record here behaves as before.
"""

import ctypes as C
import mmap
import struct
from collections.abc import Mapping

from emu.cpu.layout import host_bytes
from emu.cpu.library import LIB
from emu.cpu.native import blob
from emu.errors import EngineError

LIBC = C.CDLL(None, use_errno=True)

_TABLE = (  # in the order of `struct table`
    "x86_cpu_do_interrupt_x86_64",
    "do_interrupt_x86_hardirq_x86_64",
    "cpu_cc_compute_all_x86_64",
    "raise_exception_x86_64",
    "raise_exception_err_x86_64",
    "cpu_ldub_code_x86_64",
    "helper_check_iob_x86_64",
    "helper_check_iow_x86_64",
    "helper_check_iol_x86_64",
    "uc_emu_stop",
    "tlb_set_page_with_attrs_x86_64",
    "tlb_set_dirty_x86_64",
    "tlb_reset_dirty_by_vaddr_x86_64",
    "tlb_flush_page_x86_64",
    "tlb_flush_x86_64",
    "tb_invalidate_phys_range_x86_64",
    "tcg_tb_insert_x86_64",
)
_REDIRECTED = {
    "tlb_protect_code_x86_64": "protect_code",
    "tlb_unprotect_code_x86_64": "unprotect_code",
    "tlb_set_dirty_x86_64": "set_dirty",
    "tlb_set_page_with_attrs_x86_64": "set_page",
    "tlb_reset_dirty_by_vaddr_x86_64": "reset_dirty_by_vaddr",
    "tlb_flush_page_x86_64": "flush_page",
}
_WATCHING = {"tcg_tb_insert_x86_64": "insert_block"}
_PAGE = 4096
_DT_PLTRELSZ, _DT_PLTGOT, _TAGS, _RESERVED_SLOTS = 2, 3, 28, 3
_SYS_MEMBARRIER, _REGISTER_PRIVATE_EXPEDITED = 324, 16


class MachineRecord(C.Structure):
    """`struct machine` of thunks.c."""

    alarm: int
    waiting: int
    wake_fd: int
    watch: int

    _fields_ = [
        ("next", C.c_uint64),
        ("uc", C.c_uint64),
        ("cpu", C.c_uint64),
        ("has_code", C.c_uint64),
        ("pages", C.c_uint64),
        ("wake_fd", C.c_uint64),
        ("waiting", C.c_uint32),
        ("alarm", C.c_uint32),
        ("interrupts", C.c_uint64),
        ("one", C.c_uint64),
        ("watch", C.c_uint64),
    ]


def _address(name: str) -> int:
    value = C.cast(getattr(LIB, name), C.c_void_p).value
    if value is None:
        raise EngineError(f"the engine's library has no {name}")
    return value


class _Native:
    """The blob in executable memory and the list of engines it serves."""

    def __init__(self) -> None:
        size = -(-len(blob.CODE) // _PAGE) * _PAGE
        self._code = mmap.mmap(-1, size, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        self._code[: len(blob.CODE)] = blob.CODE
        self.base = C.addressof(C.c_char.from_buffer(self._code))
        self._table = (C.c_uint64 * (len(_TABLE) + 1)).from_address(self.base + blob.SYMBOLS["table"])
        self._table[: len(_TABLE)] = [_address(name) for name in _TABLE]
        self._records: list[MachineRecord] = []
        # a signal may still carry the address of a closed machine's record: those stay, 80 bytes each
        self._closed: list[MachineRecord] = []
        self._watching = False
        _redirect(self, _REDIRECTED)
        # for the thunk `poke`; with a second thread alive it would take 6 ms
        LIBC.syscall(_SYS_MEMBARRIER, _REGISTER_PRIVATE_EXPEDITED, 0, 0)

    def add(self, record: MachineRecord) -> None:
        record.next = self._table[len(_TABLE)]
        self._records.append(record)
        self._table[len(_TABLE)] = C.addressof(record)

    def watch(self) -> None:
        if not self._watching:
            _redirect(self, _WATCHING)
            self._watching = True

    def remove(self, record: MachineRecord) -> None:
        self._records.remove(record)
        for i, kept in enumerate(self._records):
            kept.next = C.addressof(self._records[i - 1]) if i else 0
        self._table[len(_TABLE)] = C.addressof(self._records[-1]) if self._records else 0
        record.cpu = record.uc = record.watch = 0
        self._closed.append(record)


_loaded: list[_Native] = []


def _native() -> _Native:
    if not _loaded:
        _loaded.append(_Native())
    return _loaded[0]


def native(name: str) -> int:
    """The address of one function of thunks.c. Raises EngineError where the library is another."""
    return _native().base + blob.SYMBOLS[name]


def install(record: MachineRecord) -> None:
    """Make the thunks serve an engine; before its first emu_start. The record must outlive the engine."""
    _native().add(record)


def watch(record: MachineRecord, address: int) -> None:
    """Let an engine look out for what other processes write; `address` is that of its `struct watch`."""
    _native().watch()
    record.watch = address


def remove(record: MachineRecord) -> None:
    """Forget an engine; right before it is closed."""
    _native().remove(record)


def _slots(names: tuple[str, ...]) -> dict[str, int]:
    """Addresses of the library's own GOT slots for some of its functions.

    They hold the functions' addresses: ctypes has all symbols bound when it loads a library, whose handle is
    the `struct link_map` of link.h.
    """
    _, _, dynamic = struct.unpack("<QQQ", host_bytes(LIB._handle, 24))
    tags: dict[int, int] = dict(struct.iter_unpack("<QQ", host_bytes(dynamic, 16 * _TAGS)))
    base = tags.get(_DT_PLTGOT, 0)
    slots = host_bytes(base, 8 * (_RESERVED_SLOTS + tags.get(_DT_PLTRELSZ, 0) // 24))
    found = {}
    for name in names:
        place = slots.find(struct.pack("<Q", _address(name)))
        if place >= 0 and place % 8 == 0:
            found[name] = base + place
    return found


def _redirect(loaded: _Native, calls: Mapping[str, str]) -> None:
    found = _slots(tuple(calls))
    if found.keys() != calls.keys():
        raise EngineError("the engine's library is not the one of unicorn 2.1.4")
    for name, slot in found.items():
        if LIBC.mprotect(C.c_void_p(slot & -_PAGE), C.c_size_t(_PAGE), mmap.PROT_READ | mmap.PROT_WRITE):
            raise EngineError("the engine's library cannot be made writable")
        C.c_uint64.from_address(slot).value = loaded.base + blob.SYMBOLS[calls[name]]
