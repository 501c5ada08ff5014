"""Kernels of the 16-bit boot protocol: firmware starts them, so they are handed to it by fw_cfg.

Source: Linux Documentation/arch/x86/boot.rst ("The Real-Mode Kernel Header", "Loading The Rest of ...");
the items' numbers and their meaning are those of QEMU's option ROM linuxboot_dma.bin, which fetches them.
"""

import os
import struct
from typing import Final

from emu.boot.elf import is_elf
from emu.boot.image_file import ImageFile
from emu.config import FilePath

KERNEL_ADDR, KERNEL_SIZE, INITRD_ADDR, INITRD_SIZE = 0x07, 0x08, 0x0A, 0x0B
KERNEL_ENTRY, KERNEL_DATA, INITRD_DATA, CMDLINE_ADDR, CMDLINE_SIZE, CMDLINE_DATA = range(0x10, 0x16)
SETUP_ADDR, SETUP_SIZE, SETUP_DATA = range(0x16, 0x19)
BOOT_ROM, BOOT_ORDER_FILE = "linuxboot_dma.bin", "bootorder"
MAGIC_AT, MAGIC, VERSION_AT, SECTOR = 0x202, b"HdrS", 0x206, 512
LOADFLAGS, XLOADFLAGS, SETUP_SECTS = 0x211, 0x236, 0x1F1
FIRST_64, FIRST_INITRD_MAX = 0x020C, 0x0203
LOADED_HIGH, CAN_USE_HEAP, KERNEL_64 = 1 << 0, 1 << 7, 1 << 0
REAL, CMDLINE, PROTECTED, OLD_CMDLINE_END = 0x1_0000, 0x2_0000, 0x10_0000, 0x9_A000
OLD_REAL, OLD_PROTECTED = 0x9_0000, 0x1_0000
DEFAULT_INITRD_MAX: Final = 0x37FF_FFFF
LOADER: Final = 0xB0  # as QEMU says it
PAGE: Final = 4096
_HEAD = 0x290


def needs_firmware(path: FilePath) -> bool:
    """True for a bzImage or zImage without a 64-bit entry. Raises ConfigError where it cannot be read."""
    with ImageFile(path) as image:
        head = image.head(_HEAD)
    if is_elf(head) or head[MAGIC_AT : MAGIC_AT + 4] != MAGIC:
        return False
    (version,) = struct.unpack_from("<H", head, VERSION_AT)
    return version < FIRST_64 or len(head) <= XLOADFLAGS or not head[XLOADFLAGS] & KERNEL_64


def kernel_items(path: FilePath, cmdline: str, initrd: FilePath | None, ram_top: int) -> dict[int, bytes]:
    """The items by number; `ram_top` ends the RAM below 4 GiB.

    Raises ConfigError for what is damaged or too big.
    """
    with ImageFile(path) as image:
        content = bytearray(image.read(0, image.size, "the kernel"))
        if len(content) < _HEAD or content[MAGIC_AT : MAGIC_AT + 4] != MAGIC:
            raise image.error("no Linux setup header", "give a bzImage, or leave -bios away")
        setup_size = ((content[SETUP_SECTS] or 4) + 1) * SECTOR
        if len(content) <= setup_size:
            raise image.error("it ends within its setup", "get the whole file")
        line = os.fsencode(cmdline) + b"\0"
        ramdisk = b""
        if initrd is not None:
            with ImageFile(initrd) as file:
                ramdisk = file.read(0, file.size, "the initrd")
        high = content[LOADFLAGS] & LOADED_HIGH
        real, protected = (REAL, PROTECTED) if high else (OLD_REAL, OLD_PROTECTED)
        command_line = CMDLINE if high else OLD_CMDLINE_END - len(line) & ~0xF
        (version,) = struct.unpack_from("<H", content, VERSION_AT)
        limit = DEFAULT_INITRD_MAX
        if version >= FIRST_INITRD_MAX:
            (limit,) = struct.unpack_from("<I", content, 0x22C)
        ramdisk_at = (min(limit + 1, ram_top) - len(ramdisk)) & -PAGE
        if ramdisk and ramdisk_at < protected + len(content) - setup_size:
            raise image.error("the initrd finds no room behind it", "try a larger -m")
    content[0x210] = LOADER
    content[LOADFLAGS] |= CAN_USE_HEAP
    struct.pack_into("<H", content, 0x224, (command_line - real - 0x200) & 0xFFFF)
    struct.pack_into("<I", content, 0x228, command_line)
    if ramdisk:
        struct.pack_into("<II", content, 0x218, ramdisk_at, len(ramdisk))
    words = {
        KERNEL_ADDR: protected, KERNEL_SIZE: len(content) - setup_size,
        INITRD_ADDR: ramdisk_at if ramdisk else 0, INITRD_SIZE: len(ramdisk),
        CMDLINE_ADDR: command_line, CMDLINE_SIZE: len(line), SETUP_ADDR: real, SETUP_SIZE: setup_size,
    }  # fmt: skip
    items = {key: struct.pack("<I", value) for key, value in words.items()}
    data = {KERNEL_DATA: content[setup_size:], SETUP_DATA: content[:setup_size], CMDLINE_DATA: line}
    return items | {key: bytes(value) for key, value in data.items()} | {INITRD_DATA: ramdisk}
