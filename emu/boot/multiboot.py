"""Multiboot 1: the header in the image, and the information block that the kernel is given.

Source: Multiboot Specification 0.6.96, 3.1 (header), 3.2 (machine state), 3.3 (information). Where it leaves
a choice, what common emulators do: the command line starts with the image's path, modules lie behind the
kernel, the boot device is the first hard disk, a wish for a video mode is not fulfilled.
"""

import os
import struct
from collections.abc import Sequence
from typing import NamedTuple

from emu.boot.elf import EM_X86_64, ElfImage, is_elf, load_segments, parse_elf
from emu.boot.entry import FLAT_GDT, EntryState, LoadMemory
from emu.boot.image_file import ImageFile
from emu.boot.placement import LOW_END, MIB, TYPE_RAM, Placement, memory_map
from emu.config import FilePath
from emu.errors import ConfigError

HEADER_MAGIC, BOOT_MAGIC = 0x1BAD_B002, 0x2BAD_B002
SEARCH = 8192
FLAG_ADDRESSES = 1 << 16
FLAGS_KNOWN = 0x0007  # of bits 0-15, which a loader must understand: align modules, memory, video mode
INFO_SIZE = 120
INFO_MEMORY, INFO_BOOT_DEVICE, INFO_CMDLINE, INFO_MODULES = 1, 2, 4, 8
INFO_ELF_SECTIONS, INFO_MMAP, INFO_LOADER_NAME = 1 << 5, 1 << 6, 1 << 9
BOOT_DEVICE = 0x8000_FFFF  # BIOS drive 0x80, partition unknown
LOADER_NAME = b"emu\0"
MAX_MODULES, MAX_SECTIONS = 256, 4096
_MAGIC_BYTES = struct.pack("<I", HEADER_MAGIC)
_INFO = struct.Struct("<7I")
_SECTION = struct.Struct("<10I")
_MAP_ENTRY = struct.Struct("<IQQI")
_SYMBOLS, _STRINGS = 2, 3  # section types that a kernel wants for its own symbol names


class Header(NamedTuple):
    """The header at byte `offset` of the file; the addresses count only with FLAG_ADDRESSES."""

    offset: int
    flags: int
    header_addr: int = 0
    load_addr: int = 0
    load_end_addr: int = 0
    bss_end_addr: int = 0
    entry_addr: int = 0


class Module(NamedTuple):
    """A file to load beside the kernel, and the string it is announced with."""

    path: str
    text: str


def find_header(head: bytes) -> Header | None:
    """Look for a header in the first 8192 bytes of an image; None where there is none."""
    at = head.find(_MAGIC_BYTES, 0, SEARCH)
    while at >= 0:
        if at % 4 == 0 and at + 12 <= min(len(head), SEARCH):
            flags, checksum = struct.unpack_from("<II", head, at + 4)
            if (HEADER_MAGIC + flags + checksum) & 0xFFFF_FFFF == 0:
                if not flags & FLAG_ADDRESSES:
                    return Header(at, flags)
                if at + 32 <= min(len(head), SEARCH):
                    return Header(at, flags, *struct.unpack_from("<5I", head, at + 12))
        at = head.find(_MAGIC_BYTES, at + 1, SEARCH)
    return None


def parse_modules(text: str) -> list[Module]:
    """Cut `-initrd`'s value "file arguments,file arguments"; ",," is a comma in a name."""
    parts = text.replace(",,", "\0").split(",")
    found = [part.replace("\0", ",").lstrip(" ") for part in parts]
    return [Module(part.split(" ", 1)[0], part) for part in found if part]


def load_multiboot(
    memory: LoadMemory, path: FilePath, *, cmdline: str = "", modules: Sequence[Module] = ()
) -> EntryState:
    """Load a kernel, its modules and the information block.

    Raises ConfigError for damaged files, for headers that want what is not there, and where RAM is too small.
    """
    placement = Placement(memory)
    with ImageFile(path) as image:
        header = find_header(image.head(SEARCH))
        if header is None:
            raise image.error("has no multiboot header in its first 8192 bytes", "use a multiboot 1 kernel")
        if unknown := header.flags & 0xFFFF & ~FLAGS_KNOWN:
            raise image.error(
                f"its multiboot header demands unknown features ({unknown:#06x})", "clear these flags"
            )
        info = _Information(memory, placement)
        if header.flags & FLAG_ADDRESSES:
            entry = _load_flat(memory, placement, image, header)
        else:
            elf = _elf32(image)
            load_segments(memory, image, elf, placement)
            entry = elf.entry
        for module in _checked(modules, image):
            info.add_module(module)
        if not header.flags & FLAG_ADDRESSES:
            info.add_sections(image, elf)
    base, gdt = info.write(os.fsencode(f"{path} {cmdline}"))
    return EntryState("protected32", entry, {"eax": BOOT_MAGIC, "ebx": base}, gdt=gdt)


def _checked(modules: Sequence[Module], image: ImageFile) -> Sequence[Module]:
    if len(modules) > MAX_MODULES:
        raise image.error(f"{len(modules)} modules", f"give at most {MAX_MODULES}")
    return modules


def _elf32(image: ImageFile) -> ElfImage:
    if not is_elf(image.head(4)):
        raise image.error("its multiboot header has no addresses and it is not an ELF file", "set flag 16")
    elf = parse_elf(image)
    if elf.bits != 32 or elf.machine == EM_X86_64:
        raise image.error(
            "Cannot load x86-64 image, give a 32bit one",
            'convert it with "objcopy -O elf32-i386" or add a PVH note',
        )
    if not any(s.physical <= elf.entry < s.physical + s.memory_size for s in elf.loads()):
        raise image.error(f"the entry {elf.entry:#x} is not in a segment", "link it again")
    return elf


def _load_flat(memory: LoadMemory, placement: Placement, image: ImageFile, header: Header) -> int:
    """Load by the header's addresses (Multiboot 3.1.3)."""
    start = header.offset - (header.header_addr - header.load_addr)
    if header.header_addr < header.load_addr or start < 0:
        raise image.error("multiboot load_addr does not fit header_addr", "build it again")
    length = image.size - start
    if header.load_end_addr:
        length = header.load_end_addr - header.load_addr
    size = max(length, header.bss_end_addr - header.load_addr if header.bss_end_addr else 0)
    if length <= 0 or (header.bss_end_addr and header.bss_end_addr < header.load_addr + length):
        raise image.error("multiboot load and bss addresses contradict each other", "build it again")
    if not header.load_addr <= header.entry_addr < header.load_addr + size:
        raise image.error(
            f"multiboot entry_addr {header.entry_addr:#x} is outside of the image", "build it again"
        )
    image.check(start, length, "the multiboot image")
    placement.claim(header.load_addr, size, f"{image.name}: the image")
    image.load(memory, header.load_addr, start, length, "the multiboot image", size=size)
    return header.entry_addr


class _Information:
    """Collects what the kernel is told, then writes it as one block."""

    def __init__(self, memory: LoadMemory, placement: Placement) -> None:
        self._memory, self._placement = memory, placement
        self._modules: list[tuple[int, int, bytes]] = []
        self._sections: tuple[int, int, int, int] | None = None  # number, entry size, address, name table

    def add_module(self, module: Module) -> None:
        """Load one file behind the kernel, on a page of its own."""
        with ImageFile(module.path) as file:
            base = self._placement.after(file.size, f"{file.name}: the module")
            file.load(self._memory, base, 0, file.size, "the module")
            self._modules.append((base, base + file.size, os.fsencode(module.text) + b"\0"))

    def add_sections(self, image: ImageFile, elf: ElfImage) -> None:
        """Load section headers and symbol tables; without room or sense in them the kernel gets none."""
        table = elf.sections
        if (
            not 0 < table.entries <= MAX_SECTIONS
            or table.entry_size != _SECTION.size
            or table.names >= table.entries
        ):
            return
        try:
            raw = image.read(table.offset, table.entries * _SECTION.size, "the section header table")
            headers = bytearray(raw)
            for at in range(0, len(headers), _SECTION.size):
                self._add_section(image, headers, at)
            base = self._placement.after(len(headers), "section headers")
        except ConfigError:
            return
        self._memory.view(base, len(headers))[:] = headers
        self._memory.written(base, len(headers))
        self._sections = (table.entries, _SECTION.size, base, table.names)

    def _add_section(self, image: ImageFile, headers: bytearray, at: int) -> None:
        """Load a symbol or string table and put its address into its header."""
        _, kind, _, address, offset, size, _, _, _, _ = _SECTION.unpack_from(headers, at)
        if kind not in {_SYMBOLS, _STRINGS} or address or not size:
            return
        image.check(offset, size, "a symbol table")
        base = self._placement.after(size, "symbols")
        image.read_into(offset, self._memory.view(base, size), "a symbol table")
        self._memory.written(base, size)
        struct.pack_into("<I", headers, at + 12, base)

    def write(self, cmdline: bytes) -> tuple[int, int]:
        """Write the block; return the addresses of the information and of the GDT."""
        memory_entries = memory_map(self._memory)
        texts = [cmdline + b"\0", LOADER_NAME, *(text for _, _, text in self._modules)]
        gdt_at = INFO_SIZE
        modules_at = gdt_at + len(FLAT_GDT)
        map_at = modules_at + 16 * len(self._modules)
        map_size = _MAP_ENTRY.size * len(memory_entries)
        texts_at = map_at + map_size
        size = texts_at + sum(map(len, texts))
        base = self._placement.information(size, "the multiboot information and command line")
        block = bytearray(texts_at) + b"".join(texts)
        block[gdt_at:modules_at] = FLAT_GDT
        text_at = base + texts_at + len(texts[0]) + len(LOADER_NAME)
        for i, (start, end, text) in enumerate(self._modules):
            struct.pack_into("<4I", block, modules_at + 16 * i, start, end, text_at, 0)
            text_at += len(text)
        for i, entry in enumerate(memory_entries):
            # the size field counts what follows it
            at = map_at + i * _MAP_ENTRY.size
            _MAP_ENTRY.pack_into(block, at, _MAP_ENTRY.size - 4, entry.base, entry.size, entry.kind)
        flags = INFO_MEMORY | INFO_BOOT_DEVICE | INFO_CMDLINE | INFO_MODULES | INFO_MMAP | INFO_LOADER_NAME
        upper = (
            next(e.size for e in memory_entries if e.kind == TYPE_RAM and e.base == MIB)
            if self._has_upper()
            else 0
        )
        if self._sections is not None:
            flags |= INFO_ELF_SECTIONS
            struct.pack_into("<4I", block, 28, *self._sections)
        _INFO.pack_into(
            block,
            0,
            flags,
            LOW_END // 1024,
            upper // 1024,
            BOOT_DEVICE,
            base + texts_at,
            len(self._modules),
            base + modules_at,
        )
        struct.pack_into("<II", block, 44, map_size, base + map_at)
        struct.pack_into("<I", block, 64, base + texts_at + len(texts[0]))
        self._memory.view(base, size)[:] = block
        self._memory.written(base, size)
        return base, base + gdt_at

    def _has_upper(self) -> bool:
        return any(piece.gpa <= MIB < piece.gpa + piece.size for piece in self._memory.ranges)
