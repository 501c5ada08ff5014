"""The tables by which a kernel without ACPI finds its processors, its I/O APIC and its interrupt wires.

Source: Intel MultiProcessor Specification 1.4, chapter 4: 4.1 (floating pointer), 4.2 (configuration table
header), 4.3 (entries). One processor, buses PCI and ISA, one I/O APIC, as on common PC firmware.
"""

import struct
from collections.abc import Iterable
from typing import NamedTuple

POINTER = struct.Struct("<4sIBBB5s")
HEADER = struct.Struct("<4sHBB8s12sIHHIHBB")
PROCESSOR_ENTRY = struct.Struct("<BBBBII8x")
BUS_ENTRY = struct.Struct("<BB6s")
IOAPIC_ENTRY = struct.Struct("<BBBBI")
INTERRUPT_ENTRY = struct.Struct("<BBHBBBB")

PROCESSOR, BUS, IOAPIC, IO_INTERRUPT, LOCAL_INTERRUPT = 0, 1, 2, 3, 4
CPU_ENABLED, CPU_BOOT, IOAPIC_ENABLED = 1 << 0, 1 << 1, 1 << 0
INT, NMI, EXTINT = 0, 1, 3
ACTIVE_HIGH, LEVEL_TRIGGERED = 1, 3 << 2
PCI_BUS, ISA_BUS = 0, 1
ALL_APICS = 0xFF
REVISION = 4  # 1.4
CASCADE = 2  # no interrupt of its own; IRQ 0 is wired to this pin of the I/O APIC


class PciWire(NamedTuple):
    """Interrupt `pin` (1 = INTA#) of PCI device `device`, and the I/O APIC pin it arrives at."""

    device: int
    pin: int
    ioapic_pin: int


class Chips(NamedTuple):
    """What the tables describe. `signature` and `features` are CPUID leaf 1's EAX and EDX."""

    lapic_base: int
    ioapic_base: int
    ioapic_id: int
    ioapic_version: int
    signature: int
    features: int


def checksummed(block: bytes, at: int) -> bytes:
    """`block` with byte `at` such that all bytes add up to 0."""
    return block[:at] + bytes((-(sum(block) - block[at]) & 0xFF,)) + block[at + 1 :]


def build_mp_tables(base: int, chips: Chips, wires: Iterable[PciWire], level_irqs: int) -> bytes:
    """Floating pointer and configuration table, to be put at `base` (16-byte aligned, in 0xF0000-0xFFFFF).

    `level_irqs` has a bit for each ISA interrupt that PCI uses, level triggered.
    """
    entries = list(_entries(chips, wires, level_irqs))
    body = b"".join(entries)
    header = HEADER.pack(
        b"PCMP", HEADER.size + len(body), REVISION, 0, b"EMU".ljust(8), b"PC".ljust(12),
        0, 0, len(entries), chips.lapic_base, 0, 0, 0,
    )  # fmt: skip
    pointer = POINTER.pack(b"_MP_", base + POINTER.size, 1, REVISION, 0, bytes(5))
    return checksummed(pointer, 10) + checksummed(header + body, 7)


def _entries(chips: Chips, wires: Iterable[PciWire], level_irqs: int) -> Iterable[bytes]:
    flags = CPU_ENABLED | CPU_BOOT
    yield PROCESSOR_ENTRY.pack(PROCESSOR, 0, 0x14, flags, chips.signature, chips.features)
    yield BUS_ENTRY.pack(BUS, PCI_BUS, b"PCI   ")
    yield BUS_ENTRY.pack(BUS, ISA_BUS, b"ISA   ")
    version = chips.ioapic_version & 0xFF
    yield IOAPIC_ENTRY.pack(IOAPIC, chips.ioapic_id, version, IOAPIC_ENABLED, chips.ioapic_base)
    for wire in wires:
        source = wire.device << 2 | wire.pin - 1
        yield _interrupt(IO_INTERRUPT, INT, PCI_BUS, source, chips.ioapic_id, wire.ioapic_pin)
    for irq in range(16):
        if irq == CASCADE or level_irqs >> irq & 1:
            continue
        pin = irq or CASCADE
        yield _interrupt(IO_INTERRUPT, INT, ISA_BUS, irq, chips.ioapic_id, pin)
    yield _interrupt(LOCAL_INTERRUPT, EXTINT, ISA_BUS, 0, ALL_APICS, 0)
    yield _interrupt(LOCAL_INTERRUPT, NMI, ISA_BUS, 0, ALL_APICS, 1)


def _interrupt(entry: int, kind: int, bus: int, source: int, apic: int, pin: int) -> bytes:
    polarity = ACTIVE_HIGH | LEVEL_TRIGGERED if bus == PCI_BUS else 0  # 0: as the bus has it
    return INTERRUPT_ENTRY.pack(entry, kind, polarity, bus, source, apic, pin)
