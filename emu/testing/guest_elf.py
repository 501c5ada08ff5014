"""Small guest images made by hand: ELF files with segments and notes, multiboot headers, bzImages."""

import struct
from collections.abc import Sequence
from typing import Literal, NamedTuple

from emu.boot.elf import EM_386, EM_X86_64, ET_EXEC, PT_LOAD, PT_NOTE
from emu.boot.multiboot import FLAG_ADDRESSES, HEADER_MAGIC
from emu.boot.pvh import PHYS32_ENTRY


class Load(NamedTuple):
    """One PT_LOAD segment; `memory_size` 0 means as many bytes as `data` has."""

    address: int
    data: bytes
    memory_size: int = 0


def note(name: bytes, kind: int, descriptor: bytes) -> bytes:
    """An ELF note with 4-byte alignment."""
    name += b"\0"
    return (
        struct.pack("<III", len(name), len(descriptor), kind)
        + name
        + bytes(-len(name) % 4)
        + descriptor
        + bytes(-len(descriptor) % 4)
    )


def pvh_note(entry: int, width: Literal[4, 8] = 8) -> bytes:
    """The note that names a PVH entry."""
    return note(b"Xen", PHYS32_ENTRY, entry.to_bytes(width, "little"))


def multiboot_header(flags: int = 0, addresses: Sequence[int] = ()) -> bytes:
    """A multiboot 1 header; five `addresses` switch flag 16 on."""
    if addresses:
        flags |= FLAG_ADDRESSES
    checksum = -(HEADER_MAGIC + flags) & 0xFFFF_FFFF
    return struct.pack(f"<III{len(addresses)}I", HEADER_MAGIC, flags, checksum, *addresses)


def build_bzimage(
    payload: bytes,
    *,
    version: int = 0x020F,
    loadflags: int = 1,
    xloadflags: int = 1,
    setup_sectors: int = 2,
    pref_address: int = 1 << 20,
    init_size: int = 0,
    cmdline_size: int = 2047,
    entry: bytes = b"",
) -> bytes:
    """A bzImage with `payload` as its compressed kernel, and `entry` as its code for the 64-bit entry."""
    setup = bytearray((setup_sectors + 1) * 512)
    setup[0x1F1] = setup_sectors
    struct.pack_into("<HBB4sHIHBB", setup, 0x1FE, 0xAA55, 0xEB, 0x6A, b"HdrS", version, 0, 0, 0, 0)
    setup[0x211] = loadflags
    struct.pack_into("<I", setup, 0x22C, 0x7FFF_FFFF)
    struct.pack_into("<HI", setup, 0x236, xloadflags, cmdline_size)
    head = bytes(0x200) + entry.ljust(0x40, b"\xf4")
    struct.pack_into("<II", setup, 0x248, len(head), len(payload))
    struct.pack_into("<QI", setup, 0x258, pref_address, init_size)
    return bytes(setup) + head + payload


def build_elf(
    loads: Sequence[Load],
    *,
    entry: int = 0,
    bits: Literal[32, 64] = 64,
    notes: bytes = b"",
    machine: int | None = None,
    sections: Sequence[tuple[int, bytes]] = (),
) -> bytes:
    """An ELF executable. `sections` are (type, contents) behind an empty first one."""
    if machine is None:
        machine = EM_X86_64 if bits == 64 else EM_386
    header_size, segment_size, section_size = (64, 56, 64) if bits == 64 else (52, 32, 40)
    count = len(loads) + (1 if notes else 0)
    at = header_size + segment_size * count
    table, body = b"", b""
    for load in loads:
        size = max(load.memory_size, len(load.data))
        table += _segment(bits, PT_LOAD, at + len(body), load.address, len(load.data), size)
        body += load.data + bytes(-len(load.data) % 4)
    if notes:
        table += _segment(bits, PT_NOTE, at + len(body), 0, len(notes), len(notes))
        body += notes
    headers = bytes(section_size) if sections else b""
    for kind, contents in sections:
        headers += struct.pack("<10I", 0, kind, 0, 0, at + len(body), len(contents), 0, 0, 1, 0)
        body += contents
    ident = b"\x7fELF" + bytes((2 if bits == 64 else 1, 1, 1)) + bytes(9)
    header = struct.pack(
        "<HHIQQQIHHHHHH" if bits == 64 else "<HHIIIIIHHHHHH",
        ET_EXEC,
        machine,
        1,
        entry,
        header_size,
        at + len(body) if sections else 0,
        0,
        header_size,
        segment_size,
        count,
        section_size,
        len(sections) + 1 if sections else 0,
        0,
    )
    return ident + header + table + body + headers


def _segment(bits: int, kind: int, offset: int, address: int, file_size: int, memory_size: int) -> bytes:
    if bits == 64:
        return struct.pack("<IIQQQQQQ", kind, 7, offset, address, address, file_size, memory_size, 4)
    return struct.pack("<8I", kind, offset, address, address, file_size, memory_size, 7, 4)
