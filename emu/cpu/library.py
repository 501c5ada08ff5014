"""Unicorn's shared library by its C interface: the package's own Python layer takes 30 ms to import.

Names and numbers are those of unicorn.h and x86.h.
"""

import ctypes as C
import os
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import PathFinder
from typing import TYPE_CHECKING, Final, NamedTuple

from emu.errors import EngineError

if TYPE_CHECKING:
    from emu.cpu.engine import RamBlock

UC_ARCH_X86, UC_MODE_64 = 4, 8
UC_PROT_READ, UC_PROT_WRITE, UC_PROT_EXEC, UC_PROT_ALL = 1, 2, 4, 7
UC_HOOK_MEM_WRITE_UNMAPPED, UC_HOOK_MEM_WRITE_PROT = 1 << 5, 1 << 8
UC_HOOK_INTR, UC_HOOK_INSN, UC_HOOK_INSN_INVALID = 1, 2, 1 << 14
UC_X86_INS_CPUID, UC_X86_INS_IN, UC_X86_INS_OUT = 113, 218, 500
UC_X86_INS_RDTSC, UC_X86_INS_RDTSCP = 608, 609
UC_X86_INS_SYSCALL, UC_X86_INS_SYSENTER = 699, 700
UC_X86_REG_EFLAGS, UC_X86_REG_RAX, UC_X86_REG_RIP, UC_X86_REG_CR0, UC_X86_REG_CR3 = 25, 35, 41, 50, 53
UC_X86_REG_RCX, UC_X86_REG_RDI, UC_X86_REG_RSI = 38, 39, 43
UC_CTL_USE_EXITS_ON: Final = 1 << 30 | 1 << 26 | 4
"""uc_ctl: write, one argument, UC_CTL_UC_USE_EXITS."""
UC_CTL_FLUSH_TB, UC_CTL_FLUSH_TLB = 1 << 30 | 10, 1 << 30 | 11
UC_ERR_FETCH_UNMAPPED, UC_ERR_FETCH_PROT = 8, 14
VERSION: Final = 0x020104FF
"""uc_version() of release 2.1.4."""

P = C.c_void_p
OUT_CB = C.CFUNCTYPE(None, P, C.c_uint32, C.c_int, C.c_uint32, P)
IN_CB = C.CFUNCTYPE(C.c_uint32, P, C.c_uint32, C.c_int, P)
READ_CB = C.CFUNCTYPE(C.c_uint64, P, C.c_uint64, C.c_uint32, P)
WRITE_CB = C.CFUNCTYPE(None, P, C.c_uint64, C.c_uint32, C.c_uint64, P)
PLAIN_CB = C.CFUNCTYPE(None, P, P)
SKIP_CB = C.CFUNCTYPE(C.c_int, P, P)
INTR_CB = C.CFUNCTYPE(None, P, C.c_uint32, P)
INVALID_CB = C.CFUNCTYPE(C.c_bool, P, P)
STORE_CB = C.CFUNCTYPE(C.c_bool, P, C.c_int, C.c_uint64, C.c_int, C.c_int64, P)


class AccessPrototypes(NamedTuple):
    """What makes a callback of a Python function, for OUT, IN, and reads and writes of an area."""

    port_write: Callable[..., object]
    port_read: Callable[..., object]
    read: Callable[..., object]
    write: Callable[..., object]


DOCUMENTED: Final = AccessPrototypes(OUT_CB, IN_CB, READ_CB, WRITE_CB)
"""As unicorn.h declares them."""
NARROW: Final = AccessPrototypes(
    C.CFUNCTYPE(None, C.c_uint8, C.c_uint16, C.c_uint8, C.c_uint32),
    C.CFUNCTYPE(C.c_uint32, C.c_uint8, C.c_uint16, C.c_uint8),
    C.CFUNCTYPE(C.c_uint64, C.c_uint8, C.c_uint64, C.c_uint8),
    C.CFUNCTYPE(None, C.c_uint8, C.c_uint64, C.c_uint8, C.c_uint64),
)
"""The same calls with the arguments that are used: of the engine's address, which nobody looks at, the low
byte, and no user data. The caller passes them all in registers, so what is left out stays there. Integers up
to 256 take no allocation: 30 ns less of 140."""


def find() -> str:
    """The path of libunicorn in the installed package. Raises EngineError."""
    spec = PathFinder.find_spec("unicorn", sys.path)
    for folder in spec.submodule_search_locations or () if spec is not None else ():
        path = os.path.join(folder, "lib", "libunicorn.so.2")  # noqa: PTH118 - pathlib costs 5 ms of start
        if os.access(path, os.R_OK):
            return path
    raise EngineError('unicorn is not installed; try "pip install unicorn==2.1.4"')


PATH: Final = find()
LIB = C.CDLL(PATH)
"""Calls release the GIL: emu_start."""
LIB_HELD = C.PyDLL(PATH)
"""Calls keep the GIL: short ones."""

LIB.uc_emu_start.argtypes = [P, C.c_uint64, C.c_uint64, C.c_uint64, C.c_size_t]
LIB_HELD.uc_emu_stop.argtypes = [P]
LIB_HELD.uc_strerror.restype = C.c_char_p
LIB_HELD.uc_mmio_map.argtypes = [P, C.c_uint64, C.c_size_t, P, P, P, P]
LIB_HELD.uc_mem_map_ptr.argtypes = [P, C.c_uint64, C.c_size_t, C.c_uint32, P]
LIB_HELD.uc_vmem_read.argtypes = [P, C.c_uint64, C.c_uint32, P, C.c_size_t]
LIB_HELD.uc_reg_read.argtypes = [P, C.c_int, P]
LIB_HELD.uc_reg_write.argtypes = [P, C.c_int, P]


def check(status: int, what: str) -> None:
    """Raise EngineError for a status that is not UC_ERR_OK."""
    if status:
        text = LIB_HELD.uc_strerror(status).decode()
        raise EngineError(f"the engine refuses {what}: {text}")


class Callbacks:
    """Python functions that the engine calls: alive as long as this object."""

    def __init__(self) -> None:
        self._kept: list[object] = []

    def address(self, callback: object) -> int:
        """Keep a ctypes function object; returns where the engine is to call."""
        self._kept.append(callback)
        address = C.cast(callback, P).value  # type: ignore[arg-type]  # any CFUNCTYPE object
        assert address is not None
        return address


def open_x86() -> int:
    """A new engine's handle. Raises EngineError, also where the library is of another release."""
    version = LIB_HELD.uc_version(None, None) & 0xFFFF_FFFF
    if version != VERSION:
        shown = ".".join(str(version >> shift & 0xFF) for shift in (24, 16, 8))
        raise EngineError(f'unicorn {shown} is installed, 2.1.4 is needed; try "pip install unicorn==2.1.4"')
    handle = P()
    check(LIB_HELD.uc_open(UC_ARCH_X86, UC_MODE_64, C.byref(handle)), "to start")
    if handle.value is None:
        raise EngineError("the engine gave no handle")
    return handle.value


def map_memory(handle: int, gpa: int, size: int, rights: int, address: int) -> None:
    """Let guest-physical [gpa, gpa + size) be this process's memory at `address`. Raises EngineError."""
    check(LIB_HELD.uc_mem_map_ptr(handle, gpa, size, rights, address), f"{size:#x} bytes at {gpa:#x}")


def map_area(handle: int, base: int, size: int, read: int, write: int, write_user: int = 0) -> None:
    """Let accesses to [base, base + size) call `read` and `write`, the latter with `write_user`.

    Fetches from there read all ones, as on hardware, instead of ending the engine. Raises EngineError.
    """
    what = f"an area at {base:#x}"
    check(LIB_HELD.uc_mmio_map(handle, base, size, read, None, write, write_user), what)
    check(LIB_HELD.uc_mem_protect(P(handle), C.c_uint64(base), C.c_size_t(size), UC_PROT_ALL), what)


def map_ram(handle: int, ram: "Sequence[RamBlock]") -> list[tuple[int, int, int]]:
    """Map all pieces of all blocks; returns (gpa, size, ram_addr) of each, the largest first.

    The engine numbers a new piece from the end of its smallest one on, so only that order keeps the pieces'
    numbers apart (find_ram_offset_last in its softmmu). Raises EngineError.
    """
    pieces = [(size, gpa, address, block) for block in ram for gpa, size, address in block.pieces()]
    pieces.sort(key=lambda piece: -piece[0])
    numbered, end = [], 0
    for size, gpa, address, block in pieces:
        map_memory(handle, gpa, size, UC_PROT_ALL, address)
        if not block.writable:
            protect(handle, gpa, size, writable=False)
        numbered.append((gpa, size, end))
        end += size
    for block in ram:
        drop_stores(handle, block)
    return numbered


def protect(handle: int, gpa: int, size: int, *, writable: bool) -> None:
    """Open or close a piece that was mapped by itself; the caller flushes the TLB. Raises EngineError."""
    rights = UC_PROT_ALL if writable else UC_PROT_READ | UC_PROT_EXEC
    status = LIB_HELD.uc_mem_protect(P(handle), C.c_uint64(gpa), C.c_size_t(size), C.c_uint32(rights))
    check(status, f"to protect {size:#x} bytes at {gpa:#x}")


def _go_on(*_store: int) -> bool:
    return True


_DROP: Final = STORE_CB(_go_on)
"""A store to closed memory: the engine goes on and, as the memory is still closed, leaves the store out."""


def drop_stores(handle: int, block: "RamBlock") -> None:
    """Stores to closed memory of a block are dropped; else they would end the run. Raises EngineError.

    Open memory keeps its speed: the engine asks only where a page is closed.
    """
    closable = block.closable()
    if closable is None:  # a hook for nowhere would be one for everywhere
        return
    found, (first, last) = C.c_size_t(), closable
    kind, user = C.c_int(UC_HOOK_MEM_WRITE_PROT), P(0)
    status = LIB_HELD.uc_hook_add(
        P(handle), C.byref(found), kind, _DROP, user, C.c_uint64(first), C.c_uint64(last)
    )
    check(status, "a hook")


def hook(handle: int, kind: int, callback: int, instruction: int | None = None, user: int = 0) -> None:
    """uc_hook_add for everywhere; `callback` is an address. Raises EngineError."""
    extra = () if instruction is None else (C.c_int(instruction),)
    found, everywhere = C.c_size_t(), (C.c_uint64(1), C.c_uint64(0))
    status = LIB_HELD.uc_hook_add(
        P(handle), C.byref(found), C.c_int(kind), P(callback), P(user), *everywhere, *extra
    )
    check(status, "a hook")


def control(handle: int, command: int, what: str) -> None:
    """uc_ctl with a command that takes no values. Raises EngineError."""
    check(LIB_HELD.uc_ctl(P(handle), command), what)


def use_exits(handle: int) -> None:
    """Let `until` of uc_emu_start, and with it address 0, mean nothing. Raises EngineError."""
    check(LIB_HELD.uc_ctl(P(handle), UC_CTL_USE_EXITS_ON, 1), "exits")


def reg_read(handle: int, register: int) -> int:
    """One 64-bit register by its UC_X86_REG number."""
    value = C.c_uint64()
    check(LIB_HELD.uc_reg_read(handle, register, C.addressof(value)), "a register")
    return value.value


def vmem_read(handle: int, address: int, length: int) -> bytes | None:
    """Guest memory through the current page tables, or None where not mapped."""
    buffer = C.create_string_buffer(length)
    status = LIB_HELD.uc_vmem_read(handle, address, UC_PROT_READ, C.addressof(buffer), length)
    return None if status else buffer.raw


class Window:
    """Guest memory through the current page tables, up to `size` bytes at a time into one buffer."""

    def __init__(self, handle: int, size: int) -> None:
        self._handle = handle
        self._buffer = (C.c_char * size)()
        self._address = C.addressof(self._buffer)

    def read(self, address: int, length: int) -> bytes:
        """`length` bytes of one page, none where it is not mapped."""
        if LIB_HELD.uc_vmem_read(self._handle, address, UC_PROT_READ, self._address, length):
            return b""
        return self._buffer.raw[:length]
