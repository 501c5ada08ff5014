"""ELF headers and program headers, as far as a loader needs them; everything in the file is doubted.

Source: System V ABI, chapters 4 and 5 (gABI 4.1). Symbols are read elsewhere, with a library.
"""

import struct
from collections.abc import Iterator
from typing import Literal, NamedTuple

from emu.boot.entry import LoadMemory
from emu.boot.image_file import ImageFile
from emu.boot.placement import Placement

MAGIC = b"\x7fELF"
CLASS_32, CLASS_64, LITTLE_ENDIAN, BIG_ENDIAN = 1, 2, 1, 2
ET_EXEC, ET_DYN = 2, 3
EM_386, EM_X86_64 = 3, 62
PT_LOAD, PT_NOTE = 1, 4
MAX_SEGMENTS, MAX_NOTES = 256, 1 << 16
_MACHINES = {8: "MIPS", 20: "PowerPC", 21: "PowerPC64", 22: "S/390", 40: "Arm", 183: "AArch64", 243: "RISC-V"}
_HEADER = {CLASS_32: struct.Struct("<HHIIIIIHHHHHH"), CLASS_64: struct.Struct("<HHIQQQIHHHHHH")}
_SEGMENT = {CLASS_32: struct.Struct("<8I"), CLASS_64: struct.Struct("<IIQQQQQQ")}


class Segment(NamedTuple):
    """One program header. `number` counts all of them, as readelf does."""

    number: int
    kind: int
    offset: int
    virtual: int
    physical: int
    file_size: int
    memory_size: int
    align: int


class SectionTable(NamedTuple):
    """Where the section headers are; `names` is the index of the name table."""

    offset: int
    entry_size: int
    entries: int
    names: int


class ElfImage(NamedTuple):
    """The headers of an x86 ELF file."""

    bits: Literal[32, 64]
    machine: int
    kind: int
    entry: int
    segments: tuple[Segment, ...]
    sections: SectionTable

    def loads(self) -> list[Segment]:
        """The segments that take memory."""
        return [segment for segment in self.segments if segment.kind == PT_LOAD and segment.memory_size]


def is_elf(head: bytes) -> bool:
    """True where a file that starts with `head` says it is an ELF file."""
    return head[:4] == MAGIC


def parse_elf(image: ImageFile) -> ElfImage:
    """Read the headers. Raises ConfigError for what is not an x86 ELF file or is damaged."""
    ident = image.read(0, 16, "the ELF header")
    elf_class, data = ident[4], ident[5]
    if not is_elf(ident):
        raise image.error("not an ELF file", "use an image that is one")
    if elf_class not in _HEADER or data != LITTLE_ENDIAN:
        order = "big-endian" if data == BIG_ENDIAN else f"data encoding {data}"
        raise image.error(f"an ELF file of class {elf_class}, {order}", "build it for x86")
    header = _HEADER[elf_class]
    fields = header.unpack(image.read(16, header.size, "the ELF header"))
    kind, machine, _, entry, phoff, shoff, _, _, phentsize, phnum, shentsize, shnum, shstrndx = fields
    if machine not in {EM_386, EM_X86_64}:
        name = _MACHINES.get(machine, f"machine {machine}")
        raise image.error(f"an ELF file for {name}, this is an x86 machine", "build it for x86")
    if kind not in {ET_EXEC, ET_DYN}:
        raise image.error("an ELF file that is not linked into an executable", "link it")
    return ElfImage(
        bits=32 if elf_class == CLASS_32 else 64,
        machine=machine,
        kind=kind,
        entry=entry,
        segments=_segments(image, elf_class, phoff, phentsize, phnum),
        sections=SectionTable(shoff, shentsize, shnum, shstrndx),
    )


def _segments(image: ImageFile, elf_class: int, offset: int, size: int, count: int) -> tuple[Segment, ...]:
    layout = _SEGMENT[elf_class]
    if not count:
        raise image.error("an ELF file without segments", "link it into an executable")
    if size < layout.size or count > MAX_SEGMENTS:
        raise image.error(f"{count} program headers of {size} bytes make no sense", "build it again")
    table = image.read(offset, size * count, "the program header table")
    found = []
    for index in range(count):
        if elf_class == CLASS_32:
            kind, at, virtual, physical, file_size, memory_size, _, align = layout.unpack_from(
                table, size * index
            )
        else:
            kind, _, at, virtual, physical, file_size, memory_size, align = layout.unpack_from(
                table, size * index
            )
        found.append(Segment(index, kind, at, virtual, physical, file_size, memory_size, align))
    return tuple(found)


def load_segments(memory: LoadMemory, image: ImageFile, elf: ElfImage, placement: Placement) -> None:
    """Copy each segment to its physical address and clear the rest of it; `placement` keeps the places.

    Raises ConfigError for segments that are truncated, overlap or lie outside of RAM.
    """
    segments = elf.loads()
    if not segments:
        raise image.error("an ELF file with nothing to load", "link it into an executable")
    for segment in segments:
        what = f"segment {segment.number}"
        if segment.file_size > segment.memory_size:
            raise image.error(f"{what} has more bytes in the file than in memory", "build it again")
        image.check(segment.offset, segment.file_size, what)
        placement.claim(segment.physical, segment.memory_size, f"{image.name}: {what}")
    for segment in segments:
        what, size = f"segment {segment.number}", segment.memory_size
        image.load(memory, segment.physical, segment.offset, segment.file_size, what, size=size)


def notes(image: ImageFile, elf: ElfImage) -> Iterator[tuple[bytes, int, bytes]]:
    """Each note's (name, type, descriptor); stops at the first that does not fit its segment."""
    for segment in elf.segments:
        if segment.kind != PT_NOTE:
            continue
        size = min(segment.file_size, MAX_NOTES)
        yield from _notes_in(image.read(segment.offset, size, f"segment {segment.number}"), segment.align)


def _notes_in(data: bytes, align: int) -> Iterator[tuple[bytes, int, bytes]]:
    step = 8 if align == 8 else 4
    at = 0
    while at + 12 <= len(data):
        name_size, size, kind = struct.unpack_from("<III", data, at)
        name_at = at + 12
        start = name_at + name_size + (-(12 + name_size) % step)
        if start + size > len(data):
            return
        yield data[name_at : name_at + name_size].rstrip(b"\0"), kind, data[start : start + size]
        at = start + size + (-size % step)
