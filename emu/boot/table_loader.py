"""ACPI tables as firmware fetches them: two files, and the list of what to do with them.

Source: QEMU, hw/acpi/bios-linker-loader.c (the layout of a command); ACPI 6.5, 5.2.5 to 5.2.9 (where tables
hold addresses). Firmware places the files, adds their addresses to the pointers, and corrects the checksums.
"""

import struct
from typing import Final

from emu.boot.acpi import ALIGNMENT, CHECKSUM_AT, HEADER, Hardware, build_acpi

TABLES_FILE, RSDP_FILE, LOADER_FILE = "etc/acpi/tables", "etc/acpi/rsdp", "etc/table-loader"
ALLOCATE, ADD_POINTER, ADD_CHECKSUM = 1, 2, 3
ZONE_HIGH, ZONE_FSEG = 1, 2
COMMAND_SIZE, NAME_SIZE = 128, 56
RSDP_SIZE, RSDP_V1_SIZE, RSDP_ALIGN = 36, 20, 16
RSDT_AT, XSDT_AT, FIRST_SUM_AT, SECOND_SUM_AT = 16, 24, 8, 32
FADT_POINTERS: Final = ((36, 4), (40, 4), (132, 8), (140, 8))
"""FIRMWARE_CTRL, DSDT and their 64-bit forms; one that is 0 stays so."""


def _name(text: str) -> bytes:
    return text.encode("ascii").ljust(NAME_SIZE, b"\0")


def _command(number: int, body: bytes) -> bytes:
    return (struct.pack("<I", number) + body).ljust(COMMAND_SIZE, b"\0")


def allocate(file: str, align: int, zone: int) -> bytes:
    """Place a file."""
    return _command(ALLOCATE, _name(file) + struct.pack("<IB", align, zone))


def add_pointer(target: str, source: str, offset: int, size: int) -> bytes:
    """Add the address of `source` to the `size` bytes at `offset` of `target`."""
    return _command(ADD_POINTER, _name(target) + _name(source) + struct.pack("<IB", offset, size))


def add_checksum(file: str, offset: int, start: int, length: int) -> bytes:
    """Make the bytes [start, start + length) sum up to 0 by the byte at `offset`."""
    return _command(ADD_CHECKSUM, _name(file) + struct.pack("<III", offset, start, length))


def acpi_files(hardware: Hardware) -> dict[str, bytes]:
    """The three files, by name."""
    block = build_acpi(-ALIGNMENT, hardware)  # so that addresses count from the first table
    rsdp, tables = block[:RSDP_SIZE], block[ALIGNMENT:]
    commands = [allocate(RSDP_FILE, RSDP_ALIGN, ZONE_FSEG), allocate(TABLES_FILE, ALIGNMENT, ZONE_HIGH)]
    rsdt = int.from_bytes(rsdp[RSDT_AT : RSDT_AT + 4], "little")
    xsdt = int.from_bytes(rsdp[XSDT_AT : XSDT_AT + 8], "little")
    for at, size in ((rsdt, 4), (xsdt, 8)):
        commands += _table(
            tables, at, [(offset, size) for offset in range(HEADER.size, _length(tables, at), size)]
        )
    for at in range(xsdt + HEADER.size, xsdt + _length(tables, xsdt), 8):
        listed = int.from_bytes(tables[at : at + 8], "little")
        if tables[listed : listed + 4] == b"FACP":
            commands += _table(tables, listed, FADT_POINTERS)
    commands.append(add_pointer(RSDP_FILE, TABLES_FILE, RSDT_AT, 4))
    commands.append(add_pointer(RSDP_FILE, TABLES_FILE, XSDT_AT, 8))
    commands.append(add_checksum(RSDP_FILE, FIRST_SUM_AT, 0, RSDP_V1_SIZE))
    commands.append(add_checksum(RSDP_FILE, SECOND_SUM_AT, 0, RSDP_SIZE))
    return {TABLES_FILE: tables, RSDP_FILE: rsdp, LOADER_FILE: b"".join(commands)}


def _length(tables: bytes, at: int) -> int:
    return int.from_bytes(tables[at + 4 : at + 8], "little")


def _table(
    tables: bytes, at: int, pointers: list[tuple[int, int]] | tuple[tuple[int, int], ...]
) -> list[bytes]:
    """The pointers of the table at `at`, then its checksum. The FACS, at 0, is never the unused pointer."""
    used = [
        (offset, size)
        for offset, size in pointers
        if offset in (36, 40) or any(tables[at + offset : at + offset + size])
    ]
    commands = [add_pointer(TABLES_FILE, TABLES_FILE, at + offset, size) for offset, size in used]
    return [*commands, add_checksum(TABLES_FILE, at + CHECKSUM_AT, at, _length(tables, at))]
