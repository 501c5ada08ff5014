"""Firmware from an image: where it lies, the ROM, and what it is told by fw_cfg and CMOS.

Sources: Intel 82371SB (PIIX3) datasheet, 2.2.5 (BIOS region, 0xE0000 alias); SeaBIOS, docs/Runtime_config.md.
"""

import os
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from emu.boot.acpi import Hardware
from emu.boot.linux16 import BOOT_ORDER_FILE, BOOT_ROM
from emu.boot.table_loader import acpi_files
from emu.bus.memory import GuestMemory
from emu.cpu.state import RESET_VECTOR, StartState
from emu.devices.block.backend import BlockBackend
from emu.devices.fw_cfg import e820_file
from emu.errors import ConfigError
from emu.machine import Machine

FOLDERS: Final = (
    *("/usr/share/seabios", "/usr/share/qemu", "/usr/local/share/qemu"),
    *("/usr/share/qemu-kvm", "/usr/share/vgabios"),
)
"""QEMU's usual data folders."""
DEFAULT_BIOS, VGA_BIOS = "bios-256k.bin", "vgabios-isavga.bin"
BLOCK, LIMIT = 0x1_0000, 8 << 20
LOW_END, LOW_SIZE = 0x10_0000, 0x2_0000
FOUR_GIB: Final = 1 << 32
RESET_BYTES: Final = 16
FIRST_BYTES: Final = bytes.fromhex("ea e9 eb 90 fa fc 0f 66")
"""Of the first instruction: a jump, or what may stand before it (NOP, CLI, CLD, WBINVD, a prefix)."""
BOOT_CODES: Final = {"a": 1, "c": 2, "d": 3, "n": 4}
CMOS_EQUIPMENT, CMOS_BOOT_THIRD, CMOS_TRANSLATION, CMOS_BOOT_FIRST = 0x14, 0x38, 0x39, 0x3D
NO_FLOPPY_CHECK: Final = 1
EQUIPMENT: Final = 0x06  # coprocessor, PS/2 mouse; no floppy drive
CHS_BYTES: Final = 1024 * 16 * 63 * 512
TRANSLATION_LBA: Final = 1


class Cmos(Protocol):
    """The clock's plain RAM bytes."""

    def cmos_write(self, index: int, value: int, /) -> None:
        """Store one."""


def find_data(name: str, folders: Sequence[str] = FOLDERS) -> str | None:
    """A file of this name here or in QEMU's usual data folders, or None."""
    for path in (name, *(f"{folder}/{name}" for folder in folders)):
        if os.path.isfile(path):  # noqa: PTH113 - pathlib costs 5 ms of start
            return path
    return None


def read_firmware(name: str | None, folders: Sequence[str] = FOLDERS) -> bytes:
    """The image of `-bios NAME`, or the default's. Raises ConfigError for what cannot be firmware."""
    path = find_data(name or DEFAULT_BIOS, folders)
    if path is None and name is None:
        raise ConfigError(
            f"booting a disk needs firmware, and there is no {DEFAULT_BIOS} in {folders[0]} or {folders[1]}; "
            "install seabios, or give -bios FILE or -kernel FILE"
        )
    if path is None:
        raise ConfigError(f"-bios: {name}: no such file, nor in {folders[0]} or {folders[1]}")
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - as above
            image = file.read(LIMIT + 1)
    except OSError as error:
        raise ConfigError(f"-bios: {path}: {error.strerror}") from None
    if not image or len(image) % BLOCK or len(image) > LIMIT:
        size = f"more than {LIMIT}" if len(image) > LIMIT else str(len(image))
        raise ConfigError(
            f"-bios: {path}: {size} bytes; firmware of a PC is a multiple of {BLOCK} bytes, at most {LIMIT}"
        )
    start = image[-RESET_BYTES : -RESET_BYTES + 5]
    if start[0] not in FIRST_BYTES or len(set(start)) == 1:
        raise ConfigError(f"-bios: {path}: no jump in its last {RESET_BYTES} bytes, where a PC starts")
    return image


class Bios:
    """A firmware image in the machine; `load` runs at power-on and after each reset.

    The chipset's alias of the image's end below 1 MiB is RAM, as after shadowing; it takes stores once
    firmware has opened it by the host bridge's PAM registers.
    """

    def __init__(self, machine: Machine, image: bytes) -> None:
        self._machine = machine
        self._low = image[-LOW_SIZE:]
        machine.add_rom(FOUR_GIB - len(image), image)

    def load(self) -> StartState:
        """Put the image's end where real mode reaches it."""
        memory, base = self._machine.memory, LOW_END - len(self._low)
        memory.view(base, len(self._low))[:] = self._low
        memory.written(base, len(self._low))
        return RESET_VECTOR


def firmware_files(memory: GuestMemory, hardware: Hardware, *, vga: bool) -> dict[str, bytes]:
    """What firmware finds in fw_cfg: memory map, ACPI tables, the VGA's option ROM where there is one."""
    ram = [(piece.gpa, piece.size) for piece in memory.ranges]
    files = {"etc/e820": e820_file(ram), **acpi_files(hardware)}
    path = find_data(VGA_BIOS) if vga else None
    if path is not None:
        try:
            with open(path, "rb") as file:  # noqa: PTH123 - pathlib costs 5 ms of start
                files[f"vgaroms/{VGA_BIOS}"] = file.read(BLOCK)
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from None
    return files


def boot_rom_files(kernel: str) -> dict[str, bytes]:
    """The option ROM that starts the kernel given by fw_cfg, first of all. Raises ConfigError without one."""
    path = find_data(BOOT_ROM)
    if path is None:
        raise ConfigError(
            f"{kernel}: firmware starts it by the option ROM {BOOT_ROM}, which is not in {FOLDERS[1]}; "
            "install qemu-system-data"
        )
    with open(path, "rb") as file:  # noqa: PTH123 - pathlib costs 5 ms of start
        content = file.read(BLOCK)
    name = f"genroms/{BOOT_ROM}"
    return {name: content, BOOT_ORDER_FILE: f"/rom@{name}".encode() + b"\0"}


def fill_cmos(cmos: Cmos, boot_order: str, ide_disks: Iterable[BlockBackend | None]) -> None:
    """What firmware reads there: equipment, boot order ("cad": disk, floppy, CD), geometry translation."""
    first, second, third = (BOOT_CODES.get(letter, 0) for letter in boot_order.ljust(3)[:3])
    cmos.cmos_write(CMOS_EQUIPMENT, EQUIPMENT)
    cmos.cmos_write(CMOS_BOOT_FIRST, second << 4 | first)
    cmos.cmos_write(CMOS_BOOT_THIRD, third << 4 | NO_FLOPPY_CHECK)
    translation = 0
    for slot, disk in enumerate(ide_disks):
        if disk is not None and disk.size > CHS_BYTES:
            translation |= TRANSLATION_LBA << 2 * slot
    cmos.cmos_write(CMOS_TRANSLATION, translation)
