"""What a machine says of itself to people: maker, model, processor, memory.

Source: DMTF DSP0134, SMBIOS 3.0: 5.2.2 (64-bit entry point), 6.1 (structures and their strings), 7.1, 7.2,
7.4, 7.5, 7.17, 7.18, 7.20, 7.33 and 7.45 (types 0, 1, 3, 4, 16, 17, 19, 32, 127).
"""

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from emu.boot.mptable import checksummed

ENTRY_SIZE: Final = 24
MAKER, MODEL = "emu", "PC (i440FX + PIIX3)"
UNKNOWN, OTHER = 0x02, 0x01
VIRTUAL = 1 << 4 + 8  # "a virtual machine", in the second extension byte of type 0
WIDE: Final = 0x8000_0000  # KiB, and from there on: see the wide field
NOTHING: Final = 0xFFFE  # no handle


class Machine(NamedTuple):
    """What is told: `ram` is (base, bytes) of each piece, `signature` and `features` CPUID leaf 1."""

    version: str
    ram: Sequence[tuple[int, int]]
    signature: int
    features: int


def build_smbios(base: int, machine: Machine) -> bytes:
    """Entry point and structures, to be put at `base` (16-byte aligned, in 0xF0000-0xFFFFF)."""
    tables = build_structures(machine)
    return build_entry(base + 32, len(tables)).ljust(32, b"\0") + tables


def build_entry(tables_at: int, size: int) -> bytes:
    """The 64-bit entry point; `size` is that of the structures."""
    entry = struct.pack("<5sBBBBBBBIQ", b"_SM3_", 0, ENTRY_SIZE, 3, 0, 0, 1, 0, size, tables_at)
    return checksummed(entry, 5)


def build_structures(machine: Machine) -> bytes:
    """All structures, each with a handle of its own."""
    total = sum(size for _, size in machine.ram)
    array, memory = 0x1000, 0x1100
    found = [
        _structure(0, 0, struct.pack("<BBHBBQHBBBB", 1, 2, 0xE000, 3, 0, 1 << 3, VIRTUAL, 0, 0, 0xFF, 0xFF),
                   MAKER, machine.version, "01/01/2024"),
        _structure(1, 0x100, struct.pack("<BBBB16sBBB", 1, 2, 3, 0, bytes(16), 6, 0, 0),
                   MAKER, MODEL, machine.version),
        _structure(3, 0x300, bytes((1, OTHER, 0, 0, 0, 3, 3, 3, UNKNOWN)) + bytes(9), MAKER),
        _structure(4, 0x400, _processor(machine), "CPU 0", MAKER),
        _structure(16, array, struct.pack("<BBBIHHQ", 3, 3, 3, min(total >> 10, WIDE), NOTHING, 1, total)),
        _structure(17, memory, _memory_device(array, total), "DIMM 0", MAKER),
    ]  # fmt: skip
    for i, (base, size) in enumerate(machine.ram):
        last = base + size - 1
        body = struct.pack("<IIHBQQ", 0xFFFF_FFFF, 0xFFFF_FFFF, array, 1, base, last)
        found.append(_structure(19, 0x1300 + i, body))
    found.append(_structure(32, 0x2000, bytes(7)))
    found.append(_structure(127, 0x7F00, b""))
    return b"".join(found)


def _structure(kind: int, handle: int, body: bytes, *strings: str) -> bytes:
    """Header, formatted part, and the strings that it names by number from 1."""
    text = b"".join(word.encode("ascii") + b"\0" for word in strings) or b"\0"
    return struct.pack("<BBH", kind, 4 + len(body), handle) + body + text + b"\0"


def _processor(machine: Machine) -> bytes:
    identity = struct.pack("<II", machine.signature, machine.features)
    return struct.pack(
        "<BBBB8sBBHHHBBHHHBBBBBBHHHHH",
        1, 3, 1, 2, identity, 0, 0, 0, 0, 0, 0x41, OTHER, 0xFFFF, 0xFFFF, 0xFFFF, 0, 0, 0, 1, 1, 1,
        1 << 2, 1, 1, 1, 1,
    )  # fmt: skip


def _memory_device(array: int, total: int) -> bytes:
    mib = total >> 20
    size, extended = (mib, 0) if mib < 0x7FFF else (0x7FFF, mib)
    return struct.pack(
        "<HHHHHBBBBBHHBBBBBIHHHH",
        array, NOTHING, 64, 64, size, 9, 0, 1, 0, 7, UNKNOWN, 0, 2, 0, 0, 0, 0, extended, 0, 0, 0, 0,
    )  # fmt: skip
