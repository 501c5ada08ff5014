"""The loader's commands, carried out as firmware does, give tables that hold together."""

import struct

from emu.boot.acpi import ALIGNMENT, Hardware, build_acpi
from emu.boot.table_loader import (
    ADD_CHECKSUM,
    ADD_POINTER,
    ALLOCATE,
    COMMAND_SIZE,
    LOADER_FILE,
    RSDP_FILE,
    TABLES_FILE,
    acpi_files,
)

HARDWARE = Hardware(
    lapic=0xFEE0_0000,
    ioapic=0xFEC0_0000,
    pm_base=0x600,
    reset_port=0xCF9,
    sci=9,
    level_irqs=0xE00,
    pci_gsi=lambda device, pin: 10 + (device + pin) % 2,
    memory_windows=(range(0xE000_0000, 0xFEC0_0000),),
)


def name(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode()


def place(files: dict[str, bytes], addresses: dict[str, int]) -> dict[str, bytearray]:
    """What firmware makes of the files, at given addresses."""
    placed: dict[str, bytearray] = {}
    script = files[LOADER_FILE]
    assert len(script) % COMMAND_SIZE == 0
    for at in range(0, len(script), COMMAND_SIZE):
        (kind,), body = struct.unpack_from("<I", script, at), script[at + 4 : at + COMMAND_SIZE]
        first = name(body[:56])
        if kind == ALLOCATE:
            align, zone = struct.unpack_from("<IB", body, 56)
            assert addresses[first] % align == 0
            assert zone == (2 if first == RSDP_FILE else 1)
            placed[first] = bytearray(files[first])
        elif kind == ADD_POINTER:
            offset, size = struct.unpack_from("<IB", body, 112)
            value = int.from_bytes(placed[first][offset : offset + size], "little")
            value += addresses[name(body[56:112])]
            placed[first][offset : offset + size] = value.to_bytes(size, "little")
        else:
            assert kind == ADD_CHECKSUM
            offset, start, length = struct.unpack_from("<III", body, 56)
            content = placed[first]
            content[offset] = content[offset] - sum(content[start : start + length]) & 0xFF
    return placed


def test_placed_tables_are_those_built_for_the_same_address() -> None:
    base = 0x3FF_8000
    placed = place(acpi_files(HARDWARE), {TABLES_FILE: base, RSDP_FILE: 0xF5A20})
    built = build_acpi(base - ALIGNMENT, HARDWARE)
    assert bytes(placed[TABLES_FILE]) == built[ALIGNMENT:]
    assert bytes(placed[RSDP_FILE]) == built[: len(placed[RSDP_FILE])]
