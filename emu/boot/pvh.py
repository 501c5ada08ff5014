"""PVH: an ELF file with a 32-bit entry in a Xen note, and the start-info block that it is given.

Sources: Xen's docs/misc/pvh.pandoc (CPU state, boot) and public/arch-x86/hvm/start_info.h (version 1).
"""

import os
import struct

from emu.boot.elf import ElfImage, load_segments, notes, parse_elf
from emu.boot.entry import FLAT_GDT, EntryState, LoadMemory
from emu.boot.image_file import ImageFile
from emu.boot.placement import Placement, memory_map
from emu.config import FilePath

PHYS32_ENTRY = 18
START_MAGIC, START_VERSION = 0x336E_C578, 1
INITRD_LIMIT = 0x3800_0000
"""Kernels map their modules below this address early on."""
_START_INFO = struct.Struct("<IIIIQQQQII")
_MODULE = struct.Struct("<QQQQ")
_MAP_ENTRY = struct.Struct("<QQII")


def pvh_entry(image: ImageFile, elf: ElfImage) -> int | None:
    """The address in the XEN_ELFNOTE_PHYS32_ENTRY note, or None where there is none."""
    for name, kind, descriptor in notes(image, elf):
        if name == b"Xen" and kind == PHYS32_ENTRY and len(descriptor) in {4, 8}:
            return int.from_bytes(descriptor, "little")
    return None


def load_pvh(
    memory: LoadMemory,
    path: FilePath,
    *,
    cmdline: str = "",
    initrd: FilePath | None = None,
    rsdp: int = 0,
) -> EntryState:
    """Load a kernel and what it is told; `rsdp` is the address of the ACPI root pointer, 0 for none.

    Raises ConfigError for damaged files and what does not fit RAM.
    """
    placement = Placement(memory)
    with ImageFile(path) as image:
        elf = parse_elf(image)
        entry = pvh_entry(image, elf)
        if entry is None:
            raise image.error(
                "has no PVH note (XEN_ELFNOTE_PHYS32_ENTRY)", "build the kernel with CONFIG_PVH=y"
            )
        if not any(s.physical <= entry < s.physical + s.memory_size for s in elf.loads()):
            raise image.error(f"the PVH entry {entry:#x} is not in a segment", "link it again")
        load_segments(memory, image, elf, placement)
    module = None if initrd is None else _load_initrd(memory, placement, initrd)
    info, gdt = _write_start_info(memory, placement, os.fsencode(cmdline), module, rsdp)
    return EntryState("protected32", entry, {"ebx": info}, gdt=gdt)


def _load_initrd(memory: LoadMemory, placement: Placement, path: FilePath) -> tuple[int, int]:
    with ImageFile(path) as file:
        base = placement.top(file.size, f"{file.name}: the initrd", high=INITRD_LIMIT)
        file.load(memory, base, 0, file.size, "the initrd")
        return base, file.size


def _write_start_info(
    memory: LoadMemory, placement: Placement, cmdline: bytes, module: tuple[int, int] | None, rsdp: int
) -> tuple[int, int]:
    """Write start info, module list, map, command line and GDT as one block; return (info, GDT)."""
    entries = memory_map(memory)
    gdt_at = _START_INFO.size
    modules_at = gdt_at + len(FLAT_GDT)
    map_at = modules_at + _MODULE.size
    cmdline_at = map_at + _MAP_ENTRY.size * len(entries)
    size = cmdline_at + len(cmdline) + 1
    base = placement.information(size, "the PVH start info and command line")
    block = bytearray(size)
    _START_INFO.pack_into(
        block,
        0,
        START_MAGIC,
        START_VERSION,
        0,
        0 if module is None else 1,
        0 if module is None else base + modules_at,
        base + cmdline_at,
        rsdp,
        base + map_at,
        len(entries),
        0,
    )
    block[gdt_at:modules_at] = FLAT_GDT
    if module is not None:
        _MODULE.pack_into(block, modules_at, module[0], module[1], 0, 0)
    for i, entry in enumerate(entries):
        _MAP_ENTRY.pack_into(block, map_at + i * _MAP_ENTRY.size, entry.base, entry.size, entry.kind, 0)
    block[cmdline_at:-1] = cmdline
    memory.view(base, size)[:] = block
    memory.written(base, size)
    return base, base + gdt_at
